"""Provides a plain convolutional network for runs on a CPU."""

import jax

from miue_jax.models import layers
from miue_jax.models.network import Network


class SmallCNN(Network):
  """Applies four 3x3 convolutions with batch norm and ReLU, and two max-poolings.

  The convolutions have w, 2w, 4w and 4w channels, where w is `model.width`; a max-pooling follows
  the first and the second. The 4w features are global averages.
  """

  sides = (4, 4)

  def backbone(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps normalised images `[batch, height, width, channel]` to features `[batch, 4 w]`."""
    width, dtype = self.model.width, self.model.dtype
    for index, channels in enumerate((width, 2 * width, 4 * width, 4 * width)):
      x = layers.conv(channels, (3, 3), dtype=dtype)(x)
      x = layers.relu(layers.batch_norm(train, dtype)(x))
      x = layers.halve(x) if index < 2 else x
    return layers.global_average(x)
