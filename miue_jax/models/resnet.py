"""Provides residual networks.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016. As in torchvision, the 3x3
convolution of a bottleneck has the stride, padding is symmetric, and the last batch norm of a block
starts with a scale of one.
"""

import functools
from collections.abc import Callable

import jax
from flax import linen as nn

from miue_jax.models import layers
from miue_jax.models.network import Network


class BasicBlock(nn.Module):
  """Applies two 3x3 convolutions and a shortcut, with `channels` outputs."""

  channels: int
  stride: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps `[batch, height, width, in]` to `[batch, height / stride, width / stride, channels]`."""
    y = layers.conv_norm(x, self.channels, 3, self.stride, train, self.dtype)
    y = layers.conv_norm(layers.relu(y), self.channels, 3, 1, train, self.dtype)
    return layers.relu(y + _shortcut(x, self.channels, self.stride, train, self.dtype))


class Bottleneck(nn.Module):
  """Applies 1x1, 3x3 and 1x1 convolutions and a shortcut, with `4 * channels` outputs."""

  channels: int
  stride: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps `[batch, height, width, in]` to `[batch, height / stride, width / stride, out]`."""
    out = 4 * self.channels
    y = layers.conv_norm(x, self.channels, 1, 1, train, self.dtype)
    y = layers.conv_norm(layers.relu(y), self.channels, 3, self.stride, train, self.dtype)
    y = layers.conv_norm(layers.relu(y), out, 1, 1, train, self.dtype)
    return layers.relu(y + _shortcut(x, out, self.stride, train, self.dtype))


class ResNet(Network):
  """Applies a stem and four stages of blocks; each stage doubles the channels.

  `model.width` is the number of channels of the first stage.

  Attributes:
    depths: Number of blocks in each stage.
    block: Makes a block from its channels, stride and dtype.
  """

  depths: tuple[int, int, int, int]
  block: Callable[..., nn.Module]

  def backbone(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps normalised images `[batch, height, width, channel]` to features `[batch, d]`."""
    width, dtype = self.model.width, self.model.dtype
    x = layers.stem(x, width, self.model, train)
    x = layers.stages(
      x, train, self.depths, lambda stage, stride: self.block(width * 2**stage, stride, dtype)
    )
    return layers.global_average(x)


def _shortcut(x: jax.Array, channels: int, stride: int, train: bool, dtype: str) -> jax.Array:
  """Returns `x`, or a 1x1 convolution of it if the shape changes."""
  if stride == 1 and x.shape[-1] == channels:
    return x
  return layers.conv_norm(x, channels, 1, stride, train, dtype)


resnet18 = functools.partial(ResNet, depths=(2, 2, 2, 2), block=BasicBlock)
resnet34 = functools.partial(ResNet, depths=(3, 4, 6, 3), block=BasicBlock)
resnet50 = functools.partial(ResNet, depths=(3, 4, 6, 3), block=Bottleneck)
