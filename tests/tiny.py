"""Provides what tests of methods share: a network, images, and checkpoints that remember."""

import dataclasses

import jax
import numpy as np
from flax import linen as nn

from miue_jax.data.dataset import Dataset, Split
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.models import layers
from miue_jax.settings.config import Model

SEED = 5  # of every run


class Tiny(nn.Module):
  """A network with one hidden layer and batch norm, which compiles quickly."""

  model: Model
  num_classes: int
  min_side = 1

  @nn.compact
  def __call__(self, images, train=False):
    hidden = nn.Dense(16)(images.reshape(len(images), -1))
    # With ReLU an image whose units are all off would have no gradient, and no delta.
    features = nn.tanh(layers.batch_norm(train, "float32")(hidden))
    return features, layers.classifier(self.num_classes)(features)


class Recorded(Checkpoints):
  """Checkpoints that also keep the newest state and its position in memory."""

  position = tree = None

  def save(self, position, tree):
    self.position, self.tree = position, jax.device_get(tree)
    super().save(position, tree)


def settings_of(kind, settings, **changes):
  """Returns settings of class `kind`, with the values of `settings` in the fields of both."""
  names = {field.name for field in dataclasses.fields(kind)} - {"name"}
  fields = [field.name for field in dataclasses.fields(settings) if field.name in names]
  return kind(**{name: getattr(settings, name) for name in fields} | changes)


def noisy_dataset(count, channels=1):
  """Returns noise of 8 x 8 pixels in three classes.

  Labels mean nothing, so that a model can only learn them from the perturbation.
  """
  rng = np.random.default_rng(0)
  images = rng.normal(128, 12, (count, 8, 8, channels)).astype(np.uint8)
  labels = rng.permutation(np.arange(count, dtype=np.int32) % 3)
  return Dataset("tiny", Split(images, labels), None, ("a", "b", "c"))


def uneven_dataset(count):
  """Returns images of 6 x 6 pixels in three classes, of which the last is the largest.

  Some pixels are black or white, where delta fits in one direction only.
  """
  rng = np.random.default_rng(0)
  images = rng.integers(-40, 296, (count, 6, 6, 1)).clip(0, 255).astype(np.uint8)
  labels = rng.permutation(np.minimum(np.arange(count) // 5, 2)).astype(np.int32)
  return Dataset("tiny", Split(images, labels), None, ("a", "b", "c"))


def central_differences(function, x, step=1e-6):
  """Returns the gradient of a scalar function of an array, in float64; 0 at a kink of a norm."""
  gradient = np.zeros(x.shape)
  for at in np.ndindex(x.shape):
    moved = x.astype(np.float64)
    moved[at] += step
    above = function(moved)
    moved[at] -= 2 * step
    gradient[at] = (above - function(moved)) / (2 * step)
  return gradient
