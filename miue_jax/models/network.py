"""Defines `Network`, which every family of classifiers subclasses.

Networks are `flax.linen` modules. Linen is kept because its parameters are plain trees, which
`jax.shard_map`, `jax.grad` with respect to images, and checkpoints accept without conversion.
"""

from typing import ClassVar

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from miue_jax.models import layers
from miue_jax.settings.config import Model
from miue_jax.settings.errors import UserError


class Network(nn.Module):
  """Normalises images, computes features by a backbone, and classifies the features.

  A subclass defines `backbone`. Parameters have no level for the backbone: its first convolution is
  `params/Conv_0`.

  Attributes:
    model: Width, stem, normalisation and dtype.
    num_classes: Number of logits.
  """

  model: Model
  num_classes: int

  # Smallest height and width of an image in pixels, with the stems "small" and "imagenet".
  sides: ClassVar[tuple[int, int]] = (8, 32)

  @property
  def min_side(self) -> int:
    """Returns the smallest height and width of an image in pixels."""
    small, imagenet = self.sides
    return small if self.model.stem == "small" else imagenet

  def backbone(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps normalised images `[batch, height, width, channel]` to features `[batch, d]`."""
    raise NotImplementedError

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
    """Maps images `[batch, height, width, channel]` in [0, 1] to (features, logits), float32."""
    chex.assert_rank(images, 4)
    chex.assert_type(images, float)  # uint8 images would be mistaken for images in [0, 1]
    x = layers.normalise(images, self.model.normalise)
    features = self.backbone(x, train).astype(jnp.float32)
    if features.ndim != 2 or len(features) != len(images):  # a network of a recipe can be wrong
      raise UserError(
        f"The backbone of {type(self).__name__} returns features of shape {list(features.shape)} "
        f"for {len(images)} images: return [batch, d]."
      )
    return features, layers.classifier(self.num_classes)(features)
