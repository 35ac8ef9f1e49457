"""Provides DenseNet: Huang et al., "Densely Connected Convolutional Networks", CVPR 2017."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from miue_jax.models import layers
from miue_jax.models.network import Network


class DenseLayer(nn.Module):
  """Appends `growth` channels, computed by a 1x1 convolution to `4 * growth` and a 3x3 one."""

  growth: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps `[batch, height, width, in]` to `[batch, height, width, in + growth]`."""
    y = layers.relu(layers.batch_norm(train, self.dtype)(x))
    y = layers.conv(4 * self.growth, (1, 1), dtype=self.dtype)(y)
    y = layers.relu(layers.batch_norm(train, self.dtype)(y))
    y = layers.conv(self.growth, (3, 3), dtype=self.dtype)(y)
    return jnp.concatenate([x, y.astype(x.dtype)], axis=-1)


class DenseNet(Network):
  """Applies a stem and blocks of dense layers, with transitions that halve channels and sides.

  The paper calls this DenseNet-BC: bottlenecks, and a compression of 1/2. `model.width` is the
  number of channels of the stem, twice the growth rate (32 in DenseNet-121; the growth rate of an
  odd width is rounded).

  Attributes:
    depths: Number of layers in each block.
  """

  depths: tuple[int, int, int, int]

  def backbone(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps normalised images `[batch, height, width, channel]` to features `[batch, d]`."""
    growth, dtype = layers.scaled(32, self.model.width), self.model.dtype
    x = layers.stem(x, 2 * growth, self.model, train, preactivation=True)
    for block, depth in enumerate(self.depths):
      if block > 0:
        x = layers.relu(layers.batch_norm(train, dtype)(x))
        x = layers.conv(x.shape[-1] // 2, (1, 1), dtype=dtype)(x)
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))
      for _ in range(depth):
        x = DenseLayer(growth, dtype)(x, train)
    return layers.global_average(layers.relu(layers.batch_norm(train, dtype)(x)))


densenet121 = functools.partial(DenseNet, depths=(6, 12, 24, 16))
