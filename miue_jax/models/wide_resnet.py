"""Provides wide residual networks: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016."""

import functools
from collections.abc import Callable

import jax
from flax import linen as nn

from miue_jax.models import layers
from miue_jax.models.network import Network


class PreActBlock(nn.Module):
  """Applies batch norm, ReLU and a 3x3 convolution, twice, and a shortcut.

  He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016. If the shape changes, the
  shortcut is a 1x1 convolution of the first activation.

  Attributes:
    channels: Number of output channels.
    stride: Stride of the first convolution.
    dtype: Type of the computation.
    gate: Function that scales the residual branch before it is added.
  """

  channels: int
  stride: int
  dtype: str
  gate: Callable[[jax.Array, str], jax.Array] = lambda y, dtype: y

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps `[batch, height, width, in]` to `[batch, height / stride, width / stride, channels]`."""
    # "SAME" would pad a strided convolution on one side only; PyTorch pads both.
    conv = functools.partial(layers.conv, self.channels, dtype=self.dtype)
    active = layers.relu(layers.batch_norm(train, self.dtype)(x))
    y = conv((3, 3), strides=self.stride, padding=1)(active)
    y = layers.relu(layers.batch_norm(train, self.dtype)(y))
    y = self.gate(conv((3, 3), padding=1)(y), self.dtype)
    if self.stride > 1 or x.shape[-1] != self.channels:
      x = conv((1, 1), strides=self.stride, padding=0)(active)
    return x + y


class WideResNet(Network):
  """Applies a stem, three stages of pre-activation blocks, batch norm and ReLU.

  At `model.width` 64 the stem has the published 16 channels, and all channels are proportional to
  the width (rounded).

  Attributes:
    depth: Number of blocks in each stage, 5 in a network of 34 layers.
    factor: Factor of the channels, relative to the 16, 32 and 64 of a thin network.
  """

  depth: int
  factor: int

  sides = (4, 16)

  def backbone(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps normalised images `[batch, height, width, channel]` to features `[batch, d]`."""
    width, dtype = self.model.width, self.model.dtype
    x = layers.stem(x, layers.scaled(16, width), self.model, train, preactivation=True)

    def block(stage, stride):
      return PreActBlock(layers.scaled(16 * 2**stage * self.factor, width), stride, dtype)

    x = layers.stages(x, train, (self.depth,) * 3, block)
    return layers.global_average(layers.relu(layers.batch_norm(train, dtype)(x)))


wrn34_10 = functools.partial(WideResNet, depth=5, factor=10)
