"""Tests EM: both sides minimise the cross-entropy of the true class until it is small."""

import numpy as np
import pytest
from tiny import SEED, Recorded, Tiny, noisy_dataset, settings_of

from miue_jax import models
from miue_jax.machine import signals
from miue_jax.methods import METHODS, em
from miue_jax.settings.config import Model, Sgd

COUNT, CLASSES, BATCH = 44, 3, 16
SETTINGS = em.Settings(
  model=Model(name="tiny"),
  source=Sgd(batch_size=8, augment="none", final_learning_rate=0.1),
  epochs=30,
  source_steps=2,
  batch_size=BATCH,
  steps=4,
  checkpoint_every=100,
)
EPOCH = SETTINGS.source_steps + -(-COUNT // BATCH) * SETTINGS.steps


DATASET = noisy_dataset(COUNT)


@pytest.fixture
def generate(tmp_path, use_devices, monkeypatch, reporter):
  """Returns `generate(...)`, which returns a result on two devices, and its checkpoints."""
  monkeypatch.setitem(models.MODELS, "tiny", Tiny)
  use_devices(2)

  def run(folder="run", stop_at=None, **changes):
    settings, states = settings_of(em.Settings, SETTINGS, **changes), Recorded(tmp_path / folder)
    made = METHODS["em"].generate(DATASET, settings, SEED, states, reporter(stop_at))
    return made, states

  return run


def errors(state, images):
  """Returns the percentage of images in [0, 255] on which the source model of a state errs."""
  _, logits = Tiny(Model(), CLASSES).apply(
    state.parts["source"].variables, np.asarray(images, np.float32) / 255
  )
  return 100 * float(np.mean(np.argmax(logits, axis=1) != DATASET.train.labels))


@pytest.mark.long
@pytest.mark.parametrize("class_wise", [False, True])
def test_it_stops_when_the_training_error_is_below_one_percent(generate, class_wise):
  made, states = generate(class_wise=class_wise)
  accuracy = made.history["poisoned_accuracy"]
  assert 1 < len(accuracy) < 30
  assert all(100 - value >= 1 for value in accuracy[:-1])
  assert 100 - accuracy[-1] < 1
  assert states.position == len(accuracy) * EPOCH
  clean = DATASET.train.images
  assert errors(states.tree, clean + made.delta) < 1
  assert errors(states.tree, clean) > 20


@pytest.mark.slow
def test_the_error_is_that_of_the_frozen_source_model(generate):
  # Where delta cannot move, it is the error on clean images without padding.
  made, states = generate(epochs=1, step_size_start=1e-9, step_size_end=1e-9)
  expected = 100 - errors(states.tree, DATASET.train.images)
  assert made.history["poisoned_accuracy"] == [pytest.approx(expected, abs=1e-4)]


@pytest.mark.slow
def test_without_a_limit_it_does_not_stop(generate):
  made, _ = generate(stop_error=0.0, epochs=25)
  assert [len(values) for values in made.history.values()] == [25, 25, 25]


@pytest.mark.slow
def test_a_run_that_stopped_early_does_not_continue(generate):
  expected, states = generate("whole")
  for step in (1, EPOCH, EPOCH + 3, states.position):
    with pytest.raises(signals.Interrupted, match="SIGTERM"):
      generate("parts", stop_at=step)
  for _ in range(2):
    resumed, again = generate("parts")
    assert resumed.delta.tobytes() == expected.delta.tobytes()
    assert resumed.history == expected.history
  assert again.tree is None  # nothing was left to do or to save


def test_the_objective_is_cross_entropy():
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(0, 3, (9, 4)).astype(np.float32), rng.integers(0, 4, 9)
  found = em.cross_entropy(None, logits, labels, np.ones(9), SETTINGS)
  exact = logits.astype(np.float64)
  expected = np.log(np.exp(exact).sum(axis=1)) - exact[np.arange(9), labels]
  assert found == pytest.approx(expected, rel=1e-5)
