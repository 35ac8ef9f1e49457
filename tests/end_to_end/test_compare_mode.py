"""The comparison as a user starts it: a table of methods against defences."""

import csv
import json
import signal

import numpy as np
import pytest
from program import ROOT, ended, epochs, wait_until

from miue_jax.artefact import release
from miue_jax.artefact.poison import Poison
from miue_jax.data import sources
from miue_jax.settings import config

RECIPE = '''"""A table that takes seconds."""

import common


def get_config():
  c = common.recipe("tiny")
  c.data.max_train, c.data.max_test = 200, 100
  c.victim.name = "linear"
  c.victim_fit.batch_size = 40
  c.victim_fit.epochs, c.victim_fit.learning_rate = 3, 0.1
  c.compare.methods = ("lsp", "patterns")
  c.compare.shared = {
    "model": {"name": "linear"},
    "source": {"batch_size": 40},
    "batch_size": 40,
    "epochs": 1,
    "steps": 1,
  }
  c.compare.recipes = {
    "lsp": {"norm": "l2", "epsilon": 6 / 255},
    "patterns": {"name": "random", "class_wise": True},
    "diverges": {"name": "em", "source": {"learning_rate": 1e30}},
  }
  c.compare.defences = ("none", "bits2")
  c.compare.seeds = (0,)
  c.measure.projections, c.measure.bootstrap, c.measure.null = 16, 0, 2
  return c
'''


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
  path = tmp_path_factory.mktemp("recipe") / "tiny.py"
  path.write_text(RECIPE)
  return f"--config={path}"


@pytest.fixture(scope="module")
def start_comparison(start_fork, recipe):
  """`start_comparison(workdir, *flags)` starts the comparison in a fork."""
  return lambda workdir, *flags: start_fork(
    "--mode=compare", recipe, f"--workdir={workdir}", *flags
  )


@pytest.fixture(scope="module")
def comparison(start_comparison):
  """`comparison(workdir, *flags)` runs the comparison in a fork."""
  return lambda workdir, *flags: ended(start_comparison(workdir, *flags))


@pytest.fixture(scope="module")
def whole(comparison, tmp_path_factory):
  """The workdir of a finished table, and how the run ended."""
  workdir = tmp_path_factory.mktemp("whole") / "compare"
  return workdir, comparison(workdir)


def rows_of(workdir):
  path = workdir / "results.jsonl"
  lines = path.read_text().splitlines() if path.exists() else []
  return [{k: v for k, v in json.loads(x).items() if "seconds" not in k} for x in lines]


def cells_of(workdir):
  """Lines of the CSV by method and defence."""
  with open(workdir / "report" / "compare.csv", newline="") as file:
    return {(line["method"], line["defence"]): line for line in csv.DictReader(file)}


def test_one_command_fills_the_table(whole):
  workdir, result = whole
  assert result.code == 0, result
  assert "Traceback" not in result.err
  wanted = [(m, d) for d in ("none", "bits2") for m in ("clean", "lsp", "patterns")]
  assert [(row["method"], row["defence"]) for row in rows_of(workdir)] == wanted
  cells = cells_of(workdir)
  for row in rows_of(workdir):
    cell = cells[row["method"], row["defence"]]
    assert float(cell["test_accuracy"]) == row["test_accuracy"]
    assert float(cell["peak_test_accuracy"]) == row["peak_test_accuracy"]
    clean = float(cells["clean", row["defence"]]["test_accuracy"])
    if row["method"] != "clean":
      assert float(cell["gap"]) == pytest.approx(clean - row["test_accuracy"])
    assert cell["published"] == ""  # these are no photographs
  assert result.out.startswith("# Which methods make digits unlearnable")
  assert result.out.endswith(f"Report: {workdir / 'report' / 'compare.html'}\n")
  for name in ("compare.html", "compare.md", "compare.csv", "compare.tex"):
    assert (workdir / "report" / name).stat().st_size > 0
  for method in ("lsp", "patterns"):
    manifest = Poison.load(workdir / "poisons" / method / "0" / "poison").manifest
    assert int(cells[method, "none"]["max_delta_255ths"]) == manifest["max_delta_255ths"]
  assert not list((workdir / "checkpoints").rglob("*.*"))
  for line in map(json.loads, (workdir / "measurements.jsonl").read_text().splitlines()):
    cell = cells.pop((line["method"], line["defence"]))
    assert float(cell["mi_sliced_histogram"]) == line["rows"][0]["mi"] > 0
    separable = line["theory"][0]["perturbations"]
    assert separable is None if line["method"] == "clean" else separable["test_accuracy"] > 50
  assert {defence for _, defence in cells} == {"bits2"}  # what is left was not measured


def test_the_same_command_repeats_nothing(whole, comparison):
  workdir, _ = whole
  before = (workdir / "results.jsonl").read_bytes()
  made = (workdir / "poisons" / "lsp" / "0" / "poison" / "manifest.json").stat().st_mtime_ns
  result = comparison(workdir)
  assert result.code == 0, result
  assert "0 of 6 victims are still to be trained" in result.err
  assert (workdir / "results.jsonl").read_bytes() == before
  assert (workdir / "poisons/lsp/0/poison/manifest.json").stat().st_mtime_ns == made


def test_another_recipe_for_a_finished_poison_is_refused(whole, comparison):
  sentence = comparison(whole[0], "--config.compare.recipes.lsp.epsilon=0.03").sentence()
  assert "poisons/lsp/0 was made with other settings" in sentence
  assert "method.epsilon (0.0235" in sentence


@pytest.mark.long
def test_kills_change_nothing(whole, start_comparison, comparison, tmp_path):
  process = start_comparison(tmp_path)
  wait_until(lambda: len(rows_of(tmp_path)) >= 2, process)
  process.kill()
  assert ended(process).code == -signal.SIGKILL
  assert 2 <= len(rows_of(tmp_path)) < 6
  assert comparison(tmp_path).code == 0
  assert rows_of(tmp_path) == rows_of(whole[0])


@pytest.mark.long
def test_a_signal_saves_and_the_same_command_continues(start_comparison, comparison, tmp_path):
  flags = ("--config.victim_fit.epochs=100", "--config.victim_fit.checkpoint_every=1000",
           "--config.compare.methods=('lsp',)", "--config.compare.defences=('none',)")  # fmt: skip
  process = start_comparison(tmp_path, *flags)
  wait_until(lambda: 5 in epochs(tmp_path, "clean seed 0"), process)
  process.send_signal(signal.SIGTERM)
  result = ended(process)
  assert result.code == 128 + signal.SIGTERM, result
  assert "the same command continues" in result.err
  assert 100 not in epochs(tmp_path, "clean seed 0")
  assert comparison(tmp_path, *flags).code == 0
  for stage in ("clean seed 0", "lsp seed 0"):
    assert epochs(tmp_path, stage) == list(range(1, 101))  # no epoch twice, none left out


@pytest.mark.long
def test_several_programs_fill_one_table(whole, start_comparison, tmp_path):
  for process in [start_comparison(tmp_path) for _ in range(2)]:
    result = ended(process)
    assert result.code == 0, result
  by_cell = [sorted(rows_of(folder), key=str) for folder in (tmp_path, whole[0])]
  assert by_cell[0] == by_cell[1]
  assert cells_of(tmp_path).keys() == cells_of(whole[0]).keys()
  lines = (tmp_path / "measurements.jsonl").read_text().splitlines()
  assert sorted(json.loads(line)["method"] for line in lines) == ["clean", "lsp", "patterns"]


@pytest.mark.long
def test_what_fails_is_marked_and_the_rest_goes_on(comparison, tmp_path):
  methods = "--config.compare.methods=('diverges', 'lsp')"
  result = comparison(tmp_path, methods)
  assert result.code == 0, result
  assert {row["method"] for row in rows_of(tmp_path)} == {"clean", "lsp"}
  cells = cells_of(tmp_path)
  for defence in ("none", "bits2"):
    assert "not finite" in cells["diverges", defence]["lost"]
    assert cells["diverges", defence]["test_accuracy"] == ""
    assert cells["lsp", defence]["lost"] == ""
  assert "lost" in next(line for line in result.out.splitlines() if "| diverges |" in line)
  assert "not finite" in result.out
  # The next sitting tries them again, here without success either.
  assert "2 of 6 victims are still to be trained" in comparison(tmp_path, methods).err


@pytest.mark.long
def test_several_data_sets_make_one_table(comparison, whole, tmp_path):
  np.savez(
    tmp_path / "noise.npz",
    x_train=np.random.default_rng(0).integers(0, 256, (90, 16, 16, 3), np.uint8),
    y_train=np.arange(90) % 3,
  )
  narrower = "'compare': {'methods': ('lsp',), 'defences': ('none',)}"
  noise = f"{{'data': {{'source': 'npz', 'path': '{tmp_path}/noise.npz'}}, {narrower}}}"
  flags = (f"--config.compare.datasets={{'digits': {{}}, 'noise': {noise}}}",)
  workdir = tmp_path / "compare"
  result = comparison(workdir, *flags)
  assert result.code == 0, result
  assert result.out.startswith("# Which methods make digits and noise unlearnable")
  # The recipe's own data set comes to what it comes to alone.
  assert rows_of(workdir / "digits") == rows_of(whole[0])
  assert [row["method"] for row in rows_of(workdir / "noise")] == ["clean", "lsp"]
  assert Poison.load(workdir / "noise/poisons/lsp/0/poison").delta.shape == (72, 16, 16, 3)
  with open(workdir / "report" / "compare.csv", newline="") as file:
    lines = [(line["dataset"], line["method"], line["defence"]) for line in csv.DictReader(file)]
  assert lines[6:] == [("noise", "clean", "none"), ("noise", "lsp", "none")]
  assert {line[0] for line in lines[:6]} == {"digits"}
  assert "0 of 8 victims are still to be trained" in comparison(workdir, *flags).err


def external_poisons(folder):
  """Images that move every value by up to 16/255, in the forms that they may come in."""
  dataset = sources.load(config.Data(max_train=200, max_test=100))
  clean = dataset.train.images
  shift = np.random.default_rng(0).integers(-16, 17, clean.shape)
  images = np.clip(clean + shift, 0, 255).astype(np.uint8)
  np.savez(folder / "images.npz", x_train=images, y_train=dataset.train.labels)
  delta = (images.astype(np.int16) - clean).astype(np.int8)
  poison = Poison.make(dataset, delta, method="x", epsilon=16 / 255, config={}, seed=0, seconds=0.0)
  release.export(dataset, poison, folder / "exported")
  return np.abs(delta).max()


@pytest.mark.long
def test_external_poisons_are_methods_of_the_table(comparison, tmp_path):
  largest = external_poisons(tmp_path)
  paths = f"('file={tmp_path}/images.npz', 'folder={tmp_path}/exported')"
  flags = ("--config.compare.methods=()", f"--config.compare.external={paths}")
  result = comparison(tmp_path / "compare", *flags)
  assert result.code == 0, result
  cells = cells_of(tmp_path / "compare")
  for defence in ("none", "bits2"):
    file, folder = cells["file", defence], cells["folder", defence]
    assert file["test_accuracy"] == folder["test_accuracy"] != ""
    for cell in (file, folder):
      assert int(cell["max_delta_255ths"]) == largest > 8
      assert cell["budget"] == f"not kept: {largest}/255, more than 8/255"
  assert f"not kept: {largest}/255" in result.out

  # A table may grow, but a name keeps its images.
  assert comparison(tmp_path / "compare", *flags, "--config.compare.methods=('lsp',)").code == 0
  assert len(rows_of(tmp_path / "compare")) == 8
  with np.load(tmp_path / "images.npz") as archive:
    np.savez(tmp_path / "images.npz", x_train=archive["x_train"] // 2)
  assert "another name" in comparison(tmp_path / "compare", *flags).sentence()


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--config.compare.methods=('magic',)"], ["'magic'", "ap, ", "miue"]),
    (["--config.compare.methods=('clean',)"], ["'clean'", "leave it out"]),
    (["--config.compare.methods=('lsp', 'lsp')"], ["compare.methods", "repetitions"]),
    (["--config.compare.victims=('magic',)"], ["'magic'", "resnet18"]),
    (["--config.compare.defences=('magic',)"], ["'magic'", "grayscale", "jpeg1 to jpeg95"]),
    (["--config.compare.methods=()"], ["nothing to compare"]),
    (["--config.compare.seeds=()"], ["compare.seeds"]),
    (["--config.compare.published=svhn"], ["compare.published", "cifar10"]),
    (["--config.compare.published=cifar10"], ["digits", "[32, 32, 1]"]),
    (["--config.compare.victims=('sl_vit',)", "--config.data.size=30"], ["30x30", "patches"]),
    (["--config.compare.recipes.lsp.epochs=2"], ["compare.recipes.lsp.epochs", "known: epsilon"]),
    (["--config.compare.recipes.lsp.epsilon=2.0"], ["compare.recipes.lsp.epsilon"]),
    (["--config.compare.defences=('none', 'vae')", "--config.data.max_test=1"], ["clean_fraction"]),
    (["--config.devices=4", "--config.compare.methods=('miue',)",
      "--config.compare.shared.batch_size=42"], ["42", "4 devices"]),
    (["--config.compare.datasets={'x': {'data': {'source': 'npz', 'path': 'absent.npz'}}}"],
     ["Dataset 'x' of the comparison", "absent.npz"]),
    (["--config.compare.datasets.x.data.size=8"], ["compare.datasets.x"]),
    (["--config.compare.datasets={'x': {}, 'y': {'data': {'name': 'x'}}}"],
     ["called 'x'", "data.name"]),
    (["--config.compare.datasets={'x': {'compare': {'methods': ('magic',)}}}"], ["'magic'"]),
    (["--config.compare.external=('x',)"], ["'x'", "NAME=PATH"]),
    (["--config.compare.external=('../x=y',)"], ["'../x=y'", "NAME=PATH"]),
    (["--config.compare.external=('lsp=.',)"], ["'lsp'", "taken"]),
    (["--config.compare.external=('x=absent.npz',)"], ["absent.npz", "correct the path"]),
  ],
  ids=lambda value: value[0].partition("=")[2] if value[0].startswith("-") else None,
)  # fmt: skip
def test_mistakes_are_named_before_any_work(comparison, tmp_path, flags, words):
  sentence = comparison(tmp_path, *flags).sentence()
  assert all(word in sentence for word in words), sentence
  assert not (tmp_path / "poisons").exists()
  assert not (tmp_path / "results.jsonl").exists()


def test_the_recipe_for_cifar10_names_what_is_there(fork, tmp_path):
  rng = np.random.default_rng(0)
  arrays = {
    "x_train": rng.integers(0, 256, (640, 32, 32, 3), np.uint8),
    "y_train": np.arange(640) % 4,
  }
  np.savez(tmp_path / "four.npz", **arrays)
  flags = [f"--config={ROOT}/configs/compare.py", f"--config.data.path={tmp_path}/four.npz"]
  sentence = fork(*flags, "--mode=compare").sentence()
  assert "compare.published=cifar10" in sentence
  assert "4 classes" in sentence
