"""A poison of several members: whose perturbation an image gets, and what a stop costs."""

import dataclasses

import numpy as np
import pytest
from tiny import Tiny

from miue_jax import models
from miue_jax.data.dataset import Dataset, Split
from miue_jax.machine import signals
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.methods import members, miue
from miue_jax.settings.config import Config, Method, Model, Sgd

COUNT = 20
METHOD = Method(epochs=2, batch_size=8, steps=1, augment="none", init="random", fraction=0.5)
CONFIG = Config(
  seed=5, model=Model(name="tiny"), source=Sgd(batch_size=8, augment="none"), method=METHOD
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
    config = dataclasses.replace(CONFIG, method=dataclasses.replace(METHOD, members=count))
    return members.generate(DATASET, config, tmp_path / folder, progress or reporter())

  return run


def test_every_image_gets_what_its_member_made_for_it(generate, tmp_path, reporter):
  made = generate("whole", 3)
  perturbed = np.zeros(COUNT, bool)
  perturbed[made.perturbed] = True
  for member in range(3):
    config = dataclasses.replace(CONFIG, seed=3 * CONFIG.seed + member)
    alone = miue.generate(DATASET, config, Checkpoints(tmp_path / f"{member}"), reporter())
    np.testing.assert_array_equal(made.delta[member::3], alone.delta[member::3])
    theirs = np.isin(np.arange(COUNT), alone.perturbed)
    np.testing.assert_array_equal(perturbed[member::3], theirs[member::3])
    suffix = f" of member {member + 1}" if member else ""
    assert made.history["objective" + suffix] == alone.history["objective"]
  assert len(made.history) == 9
  np.testing.assert_array_equal(perturbed, made.delta.any(axis=(1, 2, 3)))


def test_one_member_is_the_method_itself(generate, tmp_path, reporter):
  alone = miue.generate(DATASET, CONFIG, Checkpoints(tmp_path / "alone"), reporter())
  made = generate("one", 1)
  assert made.delta.tobytes() == alone.delta.tobytes()
  assert made.history == alone.history
  np.testing.assert_array_equal(made.perturbed, alone.perturbed)


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
  steps = METHOD.epochs * (COUNT // 8 + -(-COUNT // 8))
  assert started[-2:] == [steps, 5]  # the first member is finished, the second goes on
  assert resumed.delta.tobytes() == whole.delta.tobytes()
  assert resumed.history == whole.history
