"""Each stage of a workdir is bound to what it used, and to nothing else."""

import dataclasses
import json

import numpy as np
import pytest

from miue_jax.data.dataset import Dataset, Split
from miue_jax.experiment import bindings
from miue_jax.experiment.workdir import Experiment, Workdir
from miue_jax.machine import files
from miue_jax.methods import METHODS, miue, random
from miue_jax.settings.config import Compare, Config, Data, Evaluate, Fit, Measure, Model
from miue_jax.settings.errors import UserError

CONFIG = Config(method=miue.Settings(), evaluate=Evaluate(seeds=(0, 1)))
ALL = ("generate", "evaluate", "measure")


def make_dataset(first_pixel=0, first_label=0, first_test=0):
  images, labels = np.zeros((4, 2, 2, 1), np.uint8), np.array([first_label, 0, 1, 1], np.int32)
  test = images.copy()
  images[0, 0, 0, 0], test[0, 0, 0, 0] = first_pixel, first_test
  return Dataset("tiny", Split(images, labels), Split(test, labels), ("a", "b"))


DATASET = make_dataset()
IMAGES = bindings.fingerprints(DATASET)


@pytest.fixture
def workdir(tmp_path):
  """Returns `workdir(*stages)`, a folder in which these stages were made."""

  def make(*stages, config=CONFIG):
    made = Workdir(tmp_path)
    record(made, config, stages)
    for stage in stages:
      path = made.root / bindings._MADE[stage][0]
      path.parent.mkdir(exist_ok=True)
      if stage != "generate":
        path.write_text("{}\n")
    if "generate" in stages:
      content = {"config": dataclasses.asdict(config), "fingerprint": IMAGES["training images"]}
      files.write_json(made.poison / "manifest.json", content)
    return made

  return make


def check(workdir, config=CONFIG, images=IMAGES, stages=ALL):
  bindings.check(Experiment(config, workdir, DATASET), images, stages)


def record(workdir, config, stages):
  bindings.record(Experiment(config, workdir, DATASET), IMAGES, stages)


def changed(**sections):
  """Returns the config with changes in its sections."""
  made = {
    name: dataclasses.replace(getattr(CONFIG, name), **value) if isinstance(value, dict) else value
    for name, value in sections.items()
  }
  return dataclasses.replace(CONFIG, **made)


FREE = [
  {"devices": 2},
  {"name": "other"},
  {"data": {"path": "elsewhere/", "memory": 1.0, "name": "mine"}},
  {"method": {"microbatch": 256}},
  {"method": {"checkpoint_every": 3}},
  {"victim_fit": {"checkpoint_every": 3}},
  {"victim": {"name": "linear"}},
  {"evaluate": {"seeds": (0, 4), "defences": ("none", "bits2")}},
  {"compare": {"methods": ("em",)}},
]


@pytest.mark.parametrize("change", FREE, ids=str)
def test_paths_devices_memory_and_microbatches_bind_nothing(workdir, change):
  check(workdir(*ALL), changed(**change))


BOUND = [
  ("generate", {"seed": 3}, "seed (0 there, 3 here)"),
  ("generate", {"method": {"zeta": 0.5}}, "method.zeta (0.1 there, 0.5 here)"),
  ("generate", {"method": {"model": Model(width=3)}}, "method.model.width (64 there, 3 here)"),
  ("generate", {"method": random.Settings()}, "method.name"),
  ("evaluate", {"seed": 3}, "seed (0 there, 3 here)"),
  ("evaluate", {"victim": {"width": 8}}, "victim.width (64 there, 8 here)"),
  ("evaluate", {"victim_fit": {"epochs": 3}}, "victim_fit.epochs (200 there, 3 here)"),
  ("evaluate", {"evaluate": {"clean_fraction": 0.2}}, "evaluate.clean_fraction"),
  ("measure", {"measure": {"bins": 8}}, "measure.bins (16 there, 8 here)"),
  ("measure", {"evaluate": {"seeds": (1, 0)}}, "evaluate.seeds ([0] there, [1] here)"),
  ("measure", {"evaluate": {"conditions": ("clean",)}}, "evaluate.conditions"),
]


@pytest.mark.parametrize(("stage", "change", "words"), BOUND, ids=str)
def test_a_stage_is_bound_to_the_settings_that_it_used(workdir, stage, change, words):
  with pytest.raises(UserError) as error:
    check(workdir(stage), changed(**change))
  assert words in str(error.value)
  assert "tau" not in str(error.value)
  assert ("remove measurement.json" in str(error.value)) == (stage == "measure")


@pytest.mark.parametrize(("stage", "change", "words"), BOUND, ids=str)
def test_a_stage_that_made_nothing_is_not_bound(tmp_path, stage, change, words):
  del words
  made = Workdir(tmp_path)
  record(made, CONFIG, (stage,))
  check(made, changed(**change))


def test_a_poison_does_not_bind_later_stages(workdir):
  other = changed(victim={"width": 8}, victim_fit={"epochs": 1}, measure={"bins": 8})
  check(workdir("generate"), other)
  check(workdir("generate", "evaluate"), changed(measure={"bins": 8}))


def test_a_poison_alone_knows_its_settings(workdir):
  made = workdir("generate")
  made.config.unlink()
  check(made)
  with pytest.raises(UserError, match=r"method\.steps"):
    check(made, changed(method={"steps": 1}))


def test_a_folder_that_is_older_than_the_bindings_is_bound_as_a_whole(workdir):
  made = workdir(*ALL)
  stored = json.loads(made.config.read_text())
  del stored["stages"], stored["dataset"], stored["config"]["victim_fit"]["schedule"]
  made.config.write_text(json.dumps(stored))
  check(made)
  for change in ({"victim_fit": {"schedule": "steps"}}, {"measure": {"bins": 3}}, {"seed": 1}):
    with pytest.raises(UserError, match="was made with other settings"):
      check(made, changed(**change))


@pytest.mark.parametrize(
  ("change", "part"),
  [
    ({"first_pixel": 1}, "training images"),
    ({"first_label": 1}, "training images and test images"),
    ({"first_test": 1}, "test images"),
  ],
)
def test_changed_images_are_refused(workdir, change, part):
  images = bindings.fingerprints(make_dataset(**change))
  with pytest.raises(UserError, match=f"The {part} of tiny changed since"):
    check(workdir(*ALL), images=images)


def test_a_poison_does_not_depend_on_test_images(workdir):
  check(workdir("generate"), images=bindings.fingerprints(make_dataset(first_test=1)))


def test_the_settings_that_changed_the_images_are_named(workdir):
  images = bindings.fingerprints(make_dataset(first_pixel=1))
  with pytest.raises(UserError, match=r"data\.seed \(0 there, 1 here\)") as error:
    check(workdir(*ALL), changed(data={"seed": 1, "path": "x"}), images)
  assert "data.path" not in str(error.value)


def test_initial_weights_are_known_by_their_content(workdir, tmp_path):
  paths = [tmp_path / name for name in ("a.npz", "b.npz", "c.npz")]
  for path, content in zip(paths, (b"1", b"1", b"2"), strict=True):
    path.write_bytes(content)
  configs = [changed(victim_fit={"start_from": str(path)}) for path in paths]
  made = workdir("evaluate", config=configs[0])
  check(made, configs[1])
  with pytest.raises(UserError, match=r"victim_fit\.start_from"):
    check(made, configs[2])


def test_a_table_grows_but_its_victims_do_not_change(workdir):
  made = workdir("compare")
  check(made, changed(compare=Compare(methods=("em",), seeds=(4,))), stages=("compare",))
  for change in ({"victim": {"width": 2}}, {"compare": {"poison_per_seed": True}}):
    with pytest.raises(UserError, match="was made with other settings"):
      check(made, changed(**change), stages=("compare",))


def test_the_same_settings_write_the_same_bytes(workdir):
  made = workdir(*ALL)
  before = made.config.read_bytes()
  record(made, CONFIG, ALL)
  assert made.config.read_bytes() == before
  record(made, changed(measure={"bins": 8}), ("measure",))
  stages = json.loads(made.config.read_text())["stages"]
  assert set(stages) == set(ALL)
  assert stages["measure"]["measure.bins"] == 8


def test_moved_data_keep_their_name(workdir):
  made, moved = workdir("generate"), dataclasses.replace(make_dataset(), name="other")
  assert bindings.named(made, CONFIG, moved).name == "tiny"
  assert bindings.named(made, changed(data={"name": "mine"}), moved).name == "other"
  others = dataclasses.replace(make_dataset(first_pixel=1), name="other")
  assert bindings.named(made, CONFIG, others).name == "other"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_bound_to_all_its_settings(method):
  """Except those that change no result."""
  settings = METHODS[method].settings()
  config = Config(data=Data(), method=settings, victim_fit=Fit(), measure=Measure())
  used = bindings._used("generate", config, IMAGES)
  free = {"microbatch", "checkpoint_every"}
  names = {field.name for field in dataclasses.fields(settings)} - free
  assert {key.split(".")[1] for key in used if key.startswith("method.")} == names
