"""A plain convolutional network for runs on a CPU."""

import jax
from flax import linen as nn

from miue_jax.models import layers
from miue_jax.settings import config


class SmallCNN(nn.Module):
  """Four 3x3 convolutions with batch norm and ReLU; max-pooling after the first and the second.

  The convolutions have w, 2w, 4w and 4w channels, w being `model.width`; the features are the 4w
  global averages of the last.
  """

  model: config.Model
  num_classes: int

  @property
  def min_side(self) -> int:
    """Smallest height and width of an image, in pixels."""
    return 4

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
    """Images `[batch, height, width, channel]` in [0, 1] -> float32 (features, logits)."""
    width, dtype = self.model.width, self.model.dtype

    def stage(x: jax.Array, channels: int) -> jax.Array:
      x = layers.conv(channels, (3, 3), dtype=dtype)(x)
      return nn.relu(layers.batch_norm(train, dtype)(x))

    x = layers.normalise(images, self.model.normalise)
    x = layers.halve(stage(x, width))
    x = layers.halve(stage(x, 2 * width))
    x = stage(stage(x, 4 * width), 4 * width)
    features = layers.global_average(x)
    return features, layers.classifier(self.num_classes)(features)
