"""Tests ensembles: which perturbation an image gets, and how a run resumes."""

import dataclasses

import numpy as np
import pytest
from tiny import SEED, Tiny

from miue_jax import models
from miue_jax.data.dataset import Dataset, Split
from miue_jax.machine import signals
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.methods import METHODS, ensemble, miue
from miue_jax.settings.config import Model, Sgd

COUNT = 20
SETTINGS = miue.Settings(
  model=Model(name="tiny"),
  source=Sgd(batch_size=8, augment="none"),
  epochs=2,
  batch_size=8,
  steps=1,
  augment="none",
  init="random",
  fraction=0.5,
)


def make_dataset():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (COUNT, 6, 6, 1)).astype(np.uint8)
  return Dataset("tiny", Split(images, np.arange(COUNT, dtype=np.int32) // 10), None, ("a", "b"))


DATASET = make_dataset()


@pytest.fixture
def generate(tmp_path, use_devices, monkeypatch, reporter):
  """Returns `generate(folder, count, progress=None)`, which makes a poison of `count` members."""
  monkeypatch.setitem(models.MODELS, "tiny", Tiny)
  use_devices(2)

  def run(folder, count, progress=None):
    settings = dataclasses.replace(SETTINGS, ensemble=count)
    return ensemble.generate(DATASET, settings, SEED, tmp_path / folder, progress or reporter())

  return run


@pytest.fixture
def alone(tmp_path, reporter):
  """Returns `alone(folder, seed)`, which makes the poison of one member."""

  def run(folder, seed):
    states = Checkpoints(tmp_path / folder)
    return METHODS["miue"].generate(DATASET, SETTINGS, seed, states, reporter())

  return run


@pytest.mark.long
def test_every_image_gets_the_perturbation_of_its_member(generate, alone):
  made = generate("whole", 3)
  perturbed = np.zeros(COUNT, bool)
  perturbed[made.perturbed] = True
  for member in range(3):
    one = alone(f"{member}", 3 * SEED + member)
    np.testing.assert_array_equal(made.delta[member::3], one.delta[member::3])
    theirs = np.isin(np.arange(COUNT), one.perturbed)
    np.testing.assert_array_equal(perturbed[member::3], theirs[member::3])
    suffix = f" of member {member + 1}" if member else ""
    assert made.history["objective" + suffix] == one.history["objective"]
  assert len(made.history) == 9
  np.testing.assert_array_equal(perturbed, made.delta.any(axis=(1, 2, 3)))


@pytest.mark.long
def test_one_member_is_the_method_itself(generate, alone):
  one, made = alone("alone", SEED), generate("one", 1)
  assert made.delta.tobytes() == one.delta.tobytes()
  assert made.history == one.history
  np.testing.assert_array_equal(made.perturbed, one.perturbed)


@pytest.mark.long
def test_a_run_that_stops_in_its_second_member_ends_in_the_same_bytes(generate, reporter):
  whole, started = generate("whole", 2), []

  def stops_in_the_second(name, steps, epochs, start):
    started.append(start)
    return reporter(5 if len(started) == 2 else None)(name, steps, epochs, start)

  with pytest.raises(signals.Interrupted, match="SIGTERM"):
    generate("parts", 2, stops_in_the_second)
  assert started == [0, 0]
  started.append(None)
  resumed = generate("parts", 2, stops_in_the_second)
  steps = SETTINGS.epochs * (COUNT // 8 + -(-COUNT // 8))
  assert started[-2:] == [steps, 5]  # the first member is finished, the second continues
  assert resumed.delta.tobytes() == whole.delta.tobytes()
  assert resumed.history == whole.history
