"""Information and the covariance term during generation, against the finished poison."""

import dataclasses

import numpy as np
import pytest
from tiny import Tiny

from miue_jax import models
from miue_jax.data.dataset import Dataset, Split
from miue_jax.experiment import observation
from miue_jax.experiment.workdir import Experiment, Workdir
from miue_jax.information import ESTIMATORS, theory
from miue_jax.machine import sharding, signals
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.methods import METHODS, miue
from miue_jax.settings.config import Config, Measure, Model, Sgd
from miue_jax.settings.errors import UserError

COUNT, CLASSES, BATCH = 45, 3, 16
MEASURE = Measure(epochs=2, samples=30, projections=20, bins=4)
METHOD = miue.Settings(
  model=Model(name="tiny"),
  source=Sgd(batch_size=8),
  epochs=4,
  batch_size=BATCH,
  steps=2,
  step_size_start=2 / 255,
  step_size_end=3 / 255,
  checkpoint_every=2,
)
CONFIG = Config(seed=5, method=METHOD, measure=MEASURE)
SOURCE_STEPS = COUNT // 8
EPOCH = SOURCE_STEPS + 2 * -(-COUNT // BATCH)


def make_dataset():
  rng = np.random.default_rng(0)
  images = rng.integers(-40, 296, (COUNT, 5, 5, 1)).clip(0, 255).astype(np.uint8)
  labels = rng.permutation(np.arange(COUNT) % CLASSES).astype(np.int32)
  return Dataset("tiny", Split(images, labels), None, ("a", "b", "c"))


DATASET = make_dataset()


@pytest.fixture
def generate(tmp_path, use_devices, monkeypatch, reporter):
  """Returns `generate(...)`: an MI-UE run on two devices, by default without an interruption."""
  monkeypatch.setitem(models.MODELS, "tiny", Tiny)
  use_devices(2)

  def run(folder="run", stop_at=None, measure=MEASURE, **method):
    settings = dataclasses.replace(METHOD, **method)
    config = dataclasses.replace(CONFIG, method=settings, measure=measure)
    observer = None
    if measure.epochs:
      observer = observation.Observer(Experiment(config, Workdir(tmp_path), DATASET))
    return METHODS["miue"].generate(
      DATASET,
      settings,
      config.seed,
      Checkpoints(tmp_path / folder),
      reporter(stop_at),
      observer,
    )

  return run


@pytest.fixture
def looks(monkeypatch):
  """The input of every look: source model, features before and after, labels."""
  found, look, observe = [], observation.Observer.look, observation.observed

  def looked(self, source, delta, layout):
    found.append([sharding.fetch(source.variables)])
    return look(self, source, delta, layout)

  def observed(before, after, labels, settings):
    found[-1] += [before, after, labels]
    return observe(before, after, labels, settings)

  monkeypatch.setattr(observation.Observer, "look", looked)
  monkeypatch.setattr(observation, "observed", observed)
  return found


def features_of(variables, images):
  """The network in NumPy and float64."""
  params, stats = variables["params"], variables["batch_stats"]
  hidden = images.reshape(len(images), -1) / 255.0 @ params["Dense_0"]["kernel"]
  hidden = hidden + params["Dense_0"]["bias"]
  (moments,) = stats.values()
  (norm,) = (params[name] for name in stats)
  hidden = (hidden - moments["mean"]) / np.sqrt(moments["var"] + 1e-5)
  return np.tanh(hidden * norm["scale"] + norm["bias"])


@pytest.mark.parametrize(
  ("wanted", "last", "expected"),
  [
    (1, 10, (10,)),
    (2, 10, (5, 10)),
    (4, 10, (3, 5, 8, 10)),
    (10, 10, tuple(range(1, 11))),
    (99, 3, (1, 2, 3)),
  ],
)
def test_epochs_are_spaced_evenly_and_hold_the_last(wanted, last, expected):
  assert observation.epochs(wanted, last) == expected


@pytest.mark.long
@pytest.mark.parametrize(
  ("wanted", "expected_epochs", "changes"),
  [
    (2, [2, 4], {"class_wise": True}),
    # Fewer errors than 99.9 percent end the run; the history holds only what was observed.
    (4, [1], {"stop_error": 99.9, "fraction": 0.5}),
  ],
)
def test_the_last_look_is_at_the_finished_poison(
  generate, looks, monkeypatch, wanted, expected_epochs, changes
):
  monkeypatch.setattr(observation, "_BLOCK", 7)  # the last block is not full
  made = generate(measure=dataclasses.replace(MEASURE, epochs=wanted), **changes)
  assert len(looks) == len(expected_epochs)
  variables, before, after, labels = looks[-1]
  clean = DATASET.train.images
  expected = features_of(variables, clean[:].astype(int) + made.delta)
  assert len(before) == len(after) == len(labels) == MEASURE.samples
  # Which images were chosen shows in their features: every one is found, once, with its label.
  distance = np.abs(features_of(variables, clean[:])[None] - before[:, None]).max(axis=2)
  chosen = distance.argmin(axis=1)
  assert len(set(chosen)) == MEASURE.samples
  np.testing.assert_array_equal(labels, DATASET.train.labels[chosen])
  assert distance.min(axis=1).max() < 1e-5
  np.testing.assert_allclose(after, expected[chosen], atol=1e-5)
  assert np.abs(after - before).max() > 1e-3

  history = made.history
  assert history["observed_epoch"] == expected_epochs
  found = ESTIMATORS["sliced"](
    before, after, projections=20, inner={"bins": 4}, bootstrap=0, null=0
  )
  assert history["information"][-1] == pytest.approx(found.mi, abs=1e-5)
  assert history["half_log_det"][-1] == pytest.approx(
    theory.bound(after, labels).half_log_det, abs=1e-4
  )


@pytest.mark.long
def test_an_observer_changes_nothing(generate):
  seen = generate("seen")
  unseen = generate("unseen", measure=dataclasses.replace(MEASURE, epochs=0))
  assert seen.delta.tobytes() == unseen.delta.tobytes()
  added = seen.history.keys() - unseen.history.keys()
  assert added == {"observed_epoch", "information", "half_log_det"}
  assert {name: seen.history[name] for name in unseen.history} == unseen.history


@pytest.mark.long
def test_an_interrupted_run_has_the_same_history(generate):
  expected = generate("whole")
  # Inside a source pass, right after a look that no regular checkpoint holds, and between looks.
  for step in (2 * EPOCH - 1, 2 * EPOCH, 2 * EPOCH + 1, 3 * EPOCH + SOURCE_STEPS, 4 * EPOCH):
    with pytest.raises(signals.Interrupted):
      generate("parts", stop_at=step, checkpoint_every=3)
  resumed = generate("parts", checkpoint_every=3)
  assert resumed.delta.tobytes() == expected.delta.tobytes()
  assert resumed.history == expected.history


@pytest.mark.long
def test_the_number_of_devices_does_not_matter(generate, use_devices):
  two = generate("2", epochs=2).history
  use_devices(4)
  four = generate("4", epochs=2).history
  assert four["observed_epoch"] == two["observed_epoch"] == [1, 2]
  # A delta that rounds the other way may move one of 30 images into the next bin.
  np.testing.assert_allclose(four["information"], two["information"], atol=0.02)
  np.testing.assert_allclose(four["half_log_det"], two["half_log_det"], atol=0.05)


@pytest.mark.parametrize("changes", [{"bins": 31}, {"samples": 12}])
def test_too_few_images_are_refused_before_work_starts(generate, looks, changes):
  with pytest.raises(UserError, match="too few to observe generation"):
    generate(measure=dataclasses.replace(MEASURE, **changes))
  assert looks == []
