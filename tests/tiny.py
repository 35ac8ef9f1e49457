"""What tests of methods share: a network, images, and checkpoints that can be looked at."""

import jax
import numpy as np
from flax import linen as nn

from miue_jax.data.dataset import Dataset, Split
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.models import layers
from miue_jax.settings.config import Model


class Tiny(nn.Module):
  """One hidden layer with batch norm, soon compiled."""

  model: Model
  num_classes: int
  min_side = 1

  @nn.compact
  def __call__(self, images, train=False):
    hidden = nn.Dense(16)(images.reshape(len(images), -1))
    # Not ReLU: an image whose units are all off would have no gradient, and no delta.
    features = nn.tanh(layers.batch_norm(train, "float32")(hidden))
    return features, layers.classifier(self.num_classes)(features)


class Recorded(Checkpoints):
  """Keeps the newest state and its position at hand."""

  def save(self, position, tree):
    self.position, self.tree = position, jax.device_get(tree)
    super().save(position, tree)


def noisy_dataset(count, channels=1):
  """Noise of 8 x 8 pixels in three classes.

  Labels mean nothing: what a model gets right, it owes to the perturbation.
  """
  rng = np.random.default_rng(0)
  images = rng.normal(128, 12, (count, 8, 8, channels)).astype(np.uint8)
  labels = rng.permutation(np.arange(count, dtype=np.int32) % 3)
  return Dataset("tiny", Split(images, labels), None, ("a", "b", "c"))
