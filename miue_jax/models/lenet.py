"""Provides LeNet-5.

LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998.
"""

import jax

from miue_jax.models import layers
from miue_jax.models.network import Network


class LeNet5(Network):
  """Applies two 5x5 convolutions with max-pooling and two hidden layers, without batch norm.

  `model.width` is the number of channels w of the first convolution. The other sizes keep the
  proportions of the classic 6-16-120-84: 8w/3 (rounded down), 20w, and 14w features. MI-UE's
  "LeNet-5 (width x3)" is w = 18: 18-48-360-252. Convolutions have no padding.
  """

  sides = (16, 16)

  def backbone(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps normalised images `[batch, height, width, channel]` to features `[batch, 14 w]`."""
    del train  # no layer behaves differently in training
    width, dtype = self.model.width, self.model.dtype
    for channels in (width, 8 * width // 3):
      x = layers.conv(channels, (5, 5), padding="VALID", use_bias=True, dtype=dtype)(x)
      x = layers.halve(layers.relu(x))
    x = x.reshape(len(x), -1)
    for size in (20 * width, 14 * width):
      x = layers.relu(layers.dense(size, dtype=dtype)(x))
    return x
