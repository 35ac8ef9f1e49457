"""`--mode=measure`: on features that somebody brings, and on the victims of a finished run."""

import json
import shutil

import numpy as np
import pytest
from program import TINY, content


@pytest.fixture
def features(tmp_path):
  """Two files: clean features, and released ones with correlation 0.8 beside another array."""
  x, noise = np.random.default_rng(0).standard_normal((2, 1000, 3))
  paths = tmp_path / "clean.npz", tmp_path / "released.npz"
  np.savez(paths[0], x)
  np.savez(paths[1], block4=0.8 * x + 0.6 * noise, other=noise[:, :2])
  return paths


def measure(clean, released, *flags):
  return ("--mode=measure", f"--features={clean}", f"--released={released}", *flags)


def test_any_two_files_of_features(fork, features, tmp_path):
  clean, released = features
  output = tmp_path / "measured.json"
  result = fork(
    *measure(clean, f"{released}:block4", f"--output={output}"),
    "--config.measure.estimators=('gaussian', 'histogram')",
    "--config.measure.null=4",
  )
  assert result.code == 0, result
  rows = json.loads(output.read_text())["rows"]
  assert [row["estimator"] for row in rows] == ["sliced gaussian", "sliced histogram"]
  # Along every shared direction the correlation is 0.8.
  assert rows[0]["mi"] == pytest.approx(-0.5 * np.log(1 - 0.8**2), abs=0.06)
  assert rows[0]["interval"][0] < rows[0]["mi"] < rows[0]["interval"][1]
  assert rows[0]["null_mean"] == pytest.approx(0, abs=0.01)
  lines = result.out.splitlines()
  assert lines[0].split("|")[1].strip() == "estimator"
  for row, line in zip(rows, lines[2:], strict=False):
    assert line.split("|")[1].strip() == row["estimator"]
    assert line.split("|")[2].strip() == f"{row['mi']:.3f}"
  assert "1000 of 1000 rows" in result.out
  assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
    path.name for path in (clean, released, output)
  )  # no workdir


def test_files_that_cannot_be_measured(fork, features, tmp_path):
  clean, released = features
  short, text = tmp_path / "short.npz", tmp_path / "text.npz"
  np.savez(short, np.zeros((5, 3)))
  text.write_text("1, 2")
  pickled = tmp_path / "pickled.npz"
  np.savez(pickled, np.array([{}] * 1000, object))
  quick = ("--config.measure.bootstrap=0", "--config.measure.null=0")
  for flags, words in (
    (("--mode=measure", f"--features={clean}"), "--released belong together"),
    (("--mode=report", *measure(clean, released)[1:]), "to --mode=measure"),
    (measure(clean, tmp_path / "none.npz"), "none.npz"),
    (measure(clean, released), "holds block4, other: name the array"),
    (measure(clean, f"{released}:block5"), "no array 'block5'; it holds block4, other"),
    (measure(clean, f"{released}:other"), "set directions to independent"),
    (measure(clean, short), "has 1000 rows"),
    (measure(short, short), "5 samples are too few"),
    (measure(clean, text), "is not an .npz file"),
    (measure(clean, pickled), "without Python objects"),
    (measure(clean, clean, f"--output={clean}"), "choose another --output"),
    (measure(clean, clean, "--config.measure.estimators=('magic',)"), '"histogram", "kde", "knn"'),
  ):
    before = content(tmp_path)
    assert words in fork(*flags, *quick).sentence(), flags
    assert content(tmp_path) == before


ALL = ("histogram", "kde", "knn", "gaussian", "mine", "infonce", "nwj")
SETTINGS = {"estimators": ALL, "projections": 8, "critic_steps": 200, "bootstrap": 0, "null": 0}
EVERY = tuple(f"--config.measure.{key}={value}" for key, value in SETTINGS.items())


def unmeasured_copy(finished, folder, changed):
  """A copy of a finished run that was to be measured by other settings."""
  workdir = shutil.copytree(finished[0], folder / "run")
  (workdir / "measurement.json").unlink()
  stored = json.loads((workdir / "config.json").read_text())
  stored["config"]["measure"] |= changed
  del stored["stages"]["measure"]
  (workdir / "config.json").write_text(json.dumps(stored))
  return workdir


@pytest.fixture
def unmeasured(finished, tmp_path):
  """A copy of a finished run whose settings ask for every estimator."""
  return unmeasured_copy(finished, tmp_path, SETTINGS)


@pytest.mark.long
def test_all_estimators_of_the_config_reach_the_report(fork, unmeasured):
  for mode in ("measure", "report"):
    result = fork(*TINY, *EVERY, f"--workdir={unmeasured}", f"--mode={mode}")
    assert result.code == 0, result
  rows = json.loads((unmeasured / "measurement.json").read_text())["rows"]
  neural = ("mine", "infonce", "nwj")
  named = [name if name in neural else f"sliced {name}" for name in ALL]
  assert [(row["method"], row["estimator"]) for row in rows] == [
    (method, estimator) for method in ("clean", "random", "miue") for estimator in named
  ]
  markdown = (unmeasured / "report" / "report.md").read_text().splitlines()
  page = (unmeasured / "report" / "index.html").read_text()
  table = [[cell.strip() for cell in line.split("|")] for line in markdown]
  for row in rows:
    value = f"{row['mi']:.3f}"
    assert any(line[1:4] == [row["method"], row["estimator"], value] for line in table), row
    assert f">{value}<" in page
    assert f">{row['estimator']}</text>" in page  # a panel of the drawing

  # Where an estimate for the poison is not below that for clean images, a sentence says so.
  values = {(row["method"], row["estimator"]): row["mi"] for row in rows}
  against = [name for name in named if values["miue", name] >= values["clean", name]]
  said = [line for line in markdown if "Against the paper's thesis" in line]
  assert len(said) == bool(against)
  assert [name for name in named if any(f"{name} (" in line for line in said)] == against
  assert page.count("Against the paper&#39;s thesis") == bool(against)


@pytest.mark.long
def test_layers_and_test_images(fork, finished, tmp_path):
  changed = {"layers": ["Conv_*", "features"], "split": "test", "bootstrap": 0, "null": 0}
  workdir = unmeasured_copy(finished, tmp_path, changed)
  flags = (
    "--config.measure.layers=('Conv_*', 'features')",
    *(f"--config.measure.{key}={changed[key]}" for key in ("split", "bootstrap", "null")),
  )
  for mode in ("measure", "report"):
    result = fork(*TINY, *flags, f"--workdir={workdir}", f"--mode={mode}")
    assert result.code == 0, result
  measured = json.loads((workdir / "measurement.json").read_text())
  assert "test images before and after release" in measured["settings"]["features"]
  assert measured["settings"]["samples"] == 100
  layers = [*(f"Conv_{i}" for i in range(4)), "features"]
  assert [(row["method"], row["layer"]) for row in measured["rows"]] == [
    (method, layer) for method in ("clean", "random", "miue") for layer in layers
  ]
  values = {(row["method"], row["layer"]): row["mi"] for row in measured["rows"]}
  # Information about an image that changed is less than about one that did not, in the first layer.
  assert values["miue", "Conv_0"] < values["clean", "Conv_0"]
  page = (workdir / "report" / "index.html").read_text()
  assert "sliced histogram of Conv_2" in page
  assert all(f">{layer}</text>" in page for layer in layers)  # the drawing


def test_a_layer_that_there_is_not_is_named_before_any_work(fork, tmp_path):
  result = fork(*TINY, "--config.measure.layers=('Conv_9',)", f"--workdir={tmp_path / 'run'}")
  assert "'Conv_9', which matches no layer; this network has Conv_0" in result.sentence()
  assert not (tmp_path / "run" / "poison").exists()


def test_the_report_says_which_estimators_disagree(fork, unmeasured):
  """The same page for a measurement in which two of all estimators contradict the thesis."""
  rows = [
    {"method": method, "estimator": name, "mi": mi, "std": None}
    for name in ALL
    for method, mi in (("clean", 1.0), ("miue", 1.25 if name in ("knn", "nwj") else 0.5))
  ]
  (unmeasured / "measurement.json").write_text(json.dumps({"settings": {}, "rows": rows}))
  result = fork(*TINY, *EVERY, f"--workdir={unmeasured}", "--mode=report")
  assert result.code == 0, result
  sentence = "according to knn (1.250 nats for miue, 1.000 for clean), nwj (1.250 nats for miue"
  for name in ("report.md", "index.html"):
    assert (unmeasured / "report" / name).read_text().count(sentence) == 1


def test_a_run_measures_the_theory(finished):
  workdir, _ = finished
  measured = json.loads((workdir / "measurement.json").read_text())
  (row,) = [row for row in measured["rows"] if row["method"] == "miue"]
  assert row["estimator"] == "sliced histogram"
  assert row["interval"][0] < row["mi"] < row["interval"][1]
  clean, random, miue = measured["theory"]
  assert clean["before"] == clean["after"]
  assert clean["perturbations"] is None
  assert random["before"] != random["after"]
  assert 0 <= miue["perturbations"]["test_accuracy"] <= 100
  # 200 images of ten nearly equal classes; all have the eight images that a covariance needs.
  assert [one["label"] for one in miue["classes"]] == list(range(10))
  assert sum(one["samples"] for one in miue["classes"]) == 200
  assert all(len(one["after"]["spectrum"]) > 1 for one in miue["classes"])
  assert clean["learning"]["first_loss"] > 0
  assert 0 <= clean["images"]["test_accuracy"] <= 100
  report = (workdir / "report" / "report.md").read_text()
  assert "Theorem 5.1" in report
  assert "### Other explanations" in report
  page = (workdir / "report" / "index.html").read_text()
  assert "Covariance spectra of features: eigenvalue over rank; of clean, random, miue." in page


def test_a_measurement_of_an_older_version_is_still_shown(fork, finished, tmp_path):
  workdir = shutil.copytree(finished[0], tmp_path / "run")
  old = {
    "settings": {"estimator": "histogram, plug-in", "bins": 16},
    "rows": [
      {"method": "clean", "mi": 2.47123, "std": 0.1},
      {"method": "miue", "mi": 0.3, "std": 0.2},
    ],
  }
  (workdir / "measurement.json").write_text(json.dumps(old))
  result = fork(*TINY, f"--workdir={workdir}", "--mode=report")
  assert result.code == 0, result
  markdown = (workdir / "report" / "report.md").read_text()
  assert "2.471" in markdown
  assert "histogram, plug-in" in markdown
  assert "The theory" not in markdown
