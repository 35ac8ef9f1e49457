"""The victims of one experiment: which are trained, what their rows say, which states remain."""

import dataclasses
from unittest import mock

import numpy as np
import pytest
from sides import CONFIG, make_dataset, make_poison

from miue_jax import defences
from miue_jax.defences.defence import Defence
from miue_jax.experiment import stages
from miue_jax.experiment.results import Rows
from miue_jax.experiment.workdir import Experiment, Workdir
from miue_jax.machine import progress
from miue_jax.settings.config import Evaluate
from miue_jax.settings.errors import UserError

ROW = {"dataset": "sides", "method": "m", "victim": "linear", "defence": "none", "seed": 6}
NAMED = dataclasses.replace(CONFIG, method=dataclasses.replace(CONFIG.method, name="m"))


@pytest.fixture
def experiment(tmp_path):
  """An experiment whose poison is finished."""
  made = Experiment(NAMED, Workdir(tmp_path), make_dataset())
  make_poison(made.dataset).save(made.workdir.poison)
  return made


def states_of(experiment):
  return sorted(path.name for path in (experiment.workdir.checkpoints / "victims").iterdir())


def test_missing_victims_are_trained_once(experiment, use_devices, monkeypatch):
  use_devices(2)
  reporters = mock.Mock(wraps=progress.Progress)
  monkeypatch.setattr("miue_jax.experiment.workdir.Progress", reporters)
  Rows(experiment.workdir.results).append(ROW)
  rows = stages.evaluate(experiment)
  stored = Rows(experiment.workdir.results).read()
  assert stored[0] == ROW
  assert [(row["method"], row["seed"]) for row in stored[1:]] == [
    ("clean", 5),
    ("m", 5),
    ("clean", 6),
  ]
  assert rows == [*stored[1:], ROW]  # in the order of the cells
  for row in stored[1:]:
    assert (row["num_classes"], row["epochs"], len(row["curve"]["epoch"])) == (2, 3, 3)
    # The last epoch of the curve and the scores come from one state.
    assert row["curve"]["test_accuracy"][-1] == pytest.approx(row["test_accuracy"], abs=1e-3)
  assert rows[0]["test_accuracy"] > 90
  # The states of the first seed's victims are kept for `measure`.
  assert states_of(experiment) == ["clean-linear-none-5", "m-linear-none-5"]
  assert stages.evaluate(experiment) == rows
  assert reporters.call_count == 3


def test_a_failure_ends_the_run(experiment, use_devices):
  use_devices(1)
  fit = dataclasses.replace(NAMED.victim_fit, learning_rate=1e30)
  diverging = dataclasses.replace(experiment, config=dataclasses.replace(NAMED, victim_fit=fit))
  with pytest.raises(UserError, match="clean seed 5, epoch 1 is not finite"):
    stages.evaluate(diverging)
  assert not experiment.workdir.lost.exists()
  assert not experiment.workdir.results.exists()


def test_victims_that_are_gone_cannot_be_measured(experiment, use_devices):
  use_devices(1)
  with pytest.raises(UserError, match=r"victim trained on 'clean' is missing in .*clean-linear"):
    stages.measure(experiment)


def test_every_condition_is_measured_once(experiment, use_devices):
  use_devices(2)
  measure = dataclasses.replace(NAMED.measure, projections=8, bins=4, bootstrap=0, null=0)
  experiment = dataclasses.replace(experiment, config=dataclasses.replace(NAMED, measure=measure))
  stages.evaluate(experiment)
  found = stages.measure(experiment)
  assert [row["method"] for row in found["rows"]] == ["clean", "m"]
  assert [row["method"] for row in found["theory"]] == ["clean", "m"]
  assert found["settings"]["features"].startswith("linear of seed 5 of each condition, training")
  before = experiment.workdir.measurement.read_bytes()
  assert stages.measure(experiment) == found
  assert experiment.workdir.measurement.read_bytes() == before


def test_a_condition_named_as_the_method_is_one_cell(experiment, use_devices):
  """The method `random` and the control `random` would have one name; the poison counts."""
  use_devices(1)
  config = dataclasses.replace(
    NAMED,
    method=dataclasses.replace(NAMED.method, name="random"),
    evaluate=Evaluate(conditions=("random", "poison"), seeds=(5,)),
  )
  (row,) = stages.evaluate(dataclasses.replace(experiment, config=config))
  assert row["method"] == "random"
  other = dataclasses.replace(NAMED, evaluate=Evaluate(conditions=("poison",), seeds=(5,)))
  (expected,) = stages.evaluate(dataclasses.replace(experiment, config=other))
  assert row["curve"] == expected["curve"]


def fake(name, **fields):
  return mock.patch.dict(defences.DEFENCES, {name: Defence(name, **fields)})


def train_rows(experiment, names, conditions=("poison",), seeds=(5,)):
  """Returns rows under these defences, and the folders of states that remain."""
  evaluate = Evaluate(conditions=conditions, seeds=seeds, defences=names)
  config = dataclasses.replace(NAMED, evaluate=evaluate)
  rows = stages.evaluate(dataclasses.replace(experiment, config=config))
  return rows, states_of(experiment)


@pytest.mark.slow
def test_rows_carry_their_defence_and_only_undefended_states_stay(experiment, use_devices):
  use_devices(2)
  rows, states = train_rows(experiment, ("none", "bits1"), ("clean", "poison"), (5, 6))
  assert [(row["method"], row["defence"], row["seed"]) for row in rows] == [
    (method, defence, seed)
    for seed in (5, 6)
    for defence in ("none", "bits1")
    for method in ("clean", "m")
  ]
  assert states == ["clean-linear-none-5", "m-linear-none-5"]
  # One bit is 0 or 128, and nothing here reaches 128 but for what is clipped anyway.
  assert rows[0]["curve"]["train_loss"] != rows[2]["curve"]["train_loss"]
  assert train_rows(experiment, ("none", "bits1"), ("clean", "poison"), (5, 6))[0] == rows


@pytest.mark.slow
def test_a_defence_that_returns_floats_is_refused(experiment, use_devices):
  use_devices(2)

  def preprocess(train, clean, seed):
    return dataclasses.replace(train, images=train.images[:] / 255)

  with (
    fake("scaled", preprocess=preprocess),
    pytest.raises(UserError, match=r"Defence 'scaled' returns .* float64 .*: return uint8 images"),
  ):
    train_rows(experiment, ("none", "scaled"))


@pytest.mark.long
@pytest.mark.parametrize("names", [("jpeg10", "mixup", "at4"), ("projection", "earlystop")])
def test_real_defences_fill_their_rows(experiment, use_devices, names):
  use_devices(2)
  rows, _ = train_rows(experiment, ("none", *names))
  assert [row["defence"] for row in rows] == ["none", *names]
  found = {row["defence"]: row for row in rows}
  losses = {name: tuple(row["curve"]["train_loss"]) for name, row in found.items()}
  # Early stopping trains as the undefended victim does, the others do not.
  distinct = set(names) - {"earlystop"} | {"none"}
  assert len({losses[name] for name in distinct}) == len(distinct)
  if "at4" in found:
    assert 0 <= found["at4"]["robust_test_accuracy"] <= found["at4"]["test_accuracy"]
  if "earlystop" in found:
    row = found["earlystop"]
    assert losses["earlystop"] == losses["none"]
    validated = row["curve"]["validation_accuracy"]
    assert validated[row["stopped_epoch"] - 1] == max(validated)


def test_a_defence_changes_data_recipe_and_row(experiment, use_devices):
  use_devices(1)
  seen = {}

  def preprocess(train, clean, seed):
    seen.update(train=train, clean=clean, seed=seed)
    return dataclasses.replace(train, images=np.zeros(train.images.shape, np.uint8))

  with fake(
    "blind",
    preprocess=preprocess,
    recipe=lambda recipe: dataclasses.replace(recipe, epochs=2),
    measures=lambda module, state, test, seed: {"seen": [len(test), seed]},
    needs_clean=True,
    stops_early=True,
  ):
    rows, states = train_rows(experiment, ("none", "blind"))
  row, dataset = rows[1], make_dataset()
  np.testing.assert_array_equal(
    seen["train"].images, make_poison(dataset).apply(dataset.train.images)
  )
  assert (row["epochs"], len(row["curve"]["epoch"]), row["seen"], seen["seed"]) == (2, 2, [8, 5], 5)
  assert row["test_images"] == len(seen["clean"]) == 8
  assert row["preprocess_seconds"] >= 0
  # Black images tell nothing: the loss stays that of a guess.
  assert row["curve"]["train_loss"] == pytest.approx([np.log(2)] * 2, abs=0.02)
  assert row["stopped_test_accuracy"] == row["curve"]["test_accuracy"][row["stopped_epoch"] - 1]
  assert rows[0]["epochs"] == 3
  assert "test_images" not in rows[0]
  assert states == ["m-linear-none-5"]


@pytest.mark.parametrize(
  ("psnr", "ssim", "text"),
  [
    (32.833719572070855, 0.9981187511265161, "PSNR 32.8 dB, SSIM 0.998"),
    (32.833719572070855, None, "PSNR 32.8 dB"),
    (None, None, "no image is changed"),
  ],
)
def test_the_log_rounds_the_quality(psnr, ssim, text):
  assert stages._quality({"psnr_db": psnr, "ssim": ssim}) == text
