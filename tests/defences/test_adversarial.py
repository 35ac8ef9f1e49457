"""Tests adversarial training against closed forms of linear models."""

import flax.linen as nn
import numpy as np
import pytest

from miue_jax import defences
from miue_jax.data.dataset import Split
from miue_jax.defences import adversarial
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.models import layers
from miue_jax.settings.config import Fit
from miue_jax.train import fit, prediction
from miue_jax.train.step import State

pytestmark = pytest.mark.usefixtures("quick_compiler")

RADIUS = 4


class Linear(nn.Module):
  @nn.compact
  def __call__(self, images, train=False):
    features = images.reshape(len(images), -1)
    return features, layers.classifier(2)(features)


MODES = []


class Normalised(nn.Module):
  """Records the mode in which it is traced."""

  @nn.compact
  def __call__(self, images, train=False):
    MODES.append(train)
    features = layers.batch_norm(train, "float32")(nn.Dense(6)(images.reshape(len(images), -1)))
    return features, layers.classifier(2)(nn.relu(features))


def linear_state(rng, scale=1.0):
  kernel = (scale * rng.standard_normal((36, 2))).astype(np.float32)
  bias = rng.standard_normal(2).astype(np.float32)
  return State({"classifier": {"kernel": kernel, "bias": bias}}, {}, None)


def make_split(count, low=60, high=200, seed=0):
  rng = np.random.default_rng(seed)
  images = rng.integers(low, high, (count, 6, 6, 1), np.uint8)
  return Split(images, rng.integers(0, 2, count, np.int32))


@pytest.mark.parametrize("count", [1, 13])
def test_robust_accuracy_of_a_linear_model_follows_from_its_margin(use_devices, monkeypatch, count):
  use_devices(2)
  monkeypatch.setattr(prediction, "EVALUATION_BATCH", 8)
  rng = np.random.default_rng(2)
  test, state = make_split(count), linear_state(rng, scale=0.2)
  found = defences.build(f"at{RADIUS}").measures(Linear(), state, test, 0)
  weights = {key: np.float64(value) for key, value in state.params["classifier"].items()}
  pixels = test.images[:].reshape(count, -1) / 255
  margin = (pixels @ weights["kernel"] + weights["bias"]) @ [-1, 1] * np.where(test.labels, 1, -1)
  reach = RADIUS / 255 * np.abs(weights["kernel"] @ [-1, 1]).sum()
  expected = 100 * np.mean(margin > reach)
  assert found == {"robust_test_accuracy": pytest.approx(expected, abs=1e-3)}
  if count > 1:
    assert 0 < expected < 100 * np.mean(margin > 0)


def test_the_recipe_is_that_of_adversarial_training():
  given = Fit(epochs=30, learning_rate=0.5, batch_size=64, augment="crop")
  changed = defences.build("at4").recipe(given)
  assert (changed.learning_rate, changed.weight_decay, changed.schedule) == (0.1, 5e-4, "steps")
  assert (changed.epochs, changed.batch_size, changed.augment) == (30, 64, "crop")


def train(folder, reporter, module, name, devices, use_devices):
  use_devices(devices)
  defence = defences.build(name)
  return fit.fit(
    module,
    Fit(epochs=4, batch_size=8, learning_rate=0.5, augment="none"),
    make_split(24),
    make_split(8, seed=1),
    seed=0,
    name="tiny",
    checkpoints=Checkpoints(folder),
    progress=reporter(),
    hooks=defence.hooks,
  )


@pytest.mark.slow
def test_the_model_is_frozen_while_it_is_attacked(tmp_path, use_devices, reporter):
  MODES.clear()
  train(tmp_path, reporter, Normalised(), "at8", 2, use_devices)
  # Ten gradients of the attack precede the pass that learns.
  assert MODES.count(True) == 1
  assert MODES.index(True) >= adversarial.STEPS


@pytest.mark.long
def test_adversarial_training_does_not_depend_on_the_number_of_devices(
  tmp_path, use_devices, reporter
):
  fitted = {
    devices: train(tmp_path / str(devices), reporter, Linear(), "at8", devices, use_devices)
    for devices in (1, 2, 4)
  }
  plain = train(tmp_path / "plain", reporter, Linear(), "none", 1, use_devices)
  for devices in (2, 4):
    np.testing.assert_allclose(fitted[devices].curve, fitted[1].curve, rtol=1e-4)
  # The adversary makes the training loss larger than that of clean images.
  assert (np.asarray(fitted[1].curve)[:, 0] > np.asarray(plain.curve)[:, 0]).all()
