"""Residual networks: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.

As in torchvision, the stride of a bottleneck is in its 3x3 convolution, padding is symmetric and
the last scale of a block starts at one.
"""

import functools
from collections.abc import Callable

import jax
from flax import linen as nn

from miue_jax.models import layers
from miue_jax.settings import config


class BasicBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut; `channels` out."""

  channels: int
  stride: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """`[batch, height, width, in]` -> `[batch, height / stride, width / stride, channels]`."""
    y = _conv_norm(x, self.channels, 3, self.stride, train, self.dtype)
    y = _conv_norm(nn.relu(y), self.channels, 3, 1, train, self.dtype)
    return nn.relu(y + _shortcut(x, self.channels, self.stride, train, self.dtype))


class Bottleneck(nn.Module):
  """1x1, 3x3 and 1x1 convolutions and a shortcut; `4 * channels` out."""

  channels: int
  stride: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """`[batch, height, width, in]` -> `[batch, height / stride, width / stride, 4 * channels]`."""
    out = 4 * self.channels
    y = _conv_norm(x, self.channels, 1, 1, train, self.dtype)
    y = _conv_norm(nn.relu(y), self.channels, 3, self.stride, train, self.dtype)
    y = _conv_norm(nn.relu(y), out, 1, 1, train, self.dtype)
    return nn.relu(y + _shortcut(x, out, self.stride, train, self.dtype))


class ResNet(nn.Module):
  """Stem, four stages of blocks that each double the channels, global average, classifier.

  Attributes:
    depths: number of blocks in each stage.
    block: the kind of block.
    model: `width` is the channels of the first stage; `stem` is "small" (3x3, stride 1, for images
      of about 32 pixels) or "imagenet" (7x7, stride 2, then 3x3 max-pooling with stride 2).
    num_classes: number of logits.
  """

  depths: tuple[int, int, int, int]
  block: Callable[..., nn.Module]
  model: config.Model
  num_classes: int

  @property
  def min_side(self) -> int:
    """Smallest height and width of an image, in pixels: the stride of the whole network."""
    return 8 if self.model.stem == "small" else 32

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
    """Images `[batch, height, width, channel]` in [0, 1] -> float32 (features, logits)."""
    width, dtype = self.model.width, self.model.dtype
    x = layers.normalise(images, self.model.normalise)
    if self.model.stem == "small":
      x = nn.relu(_conv_norm(x, width, 3, 1, train, dtype))
    else:
      x = nn.relu(_conv_norm(x, width, 7, 2, train, dtype))
      x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    for stage, depth in enumerate(self.depths):
      for index in range(depth):
        stride = 2 if stage > 0 and index == 0 else 1
        x = self.block(width * 2**stage, stride, dtype)(x, train)
    features = layers.global_average(x)
    return features, layers.classifier(self.num_classes)(features)


def _conv_norm(
  x: jax.Array, channels: int, kernel: int, stride: int, train: bool, dtype: str
) -> jax.Array:
  # "SAME" would pad a strided convolution on one side only; PyTorch pads both.
  padding = kernel // 2
  x = layers.conv(channels, (kernel, kernel), strides=stride, padding=padding, dtype=dtype)(x)
  return layers.batch_norm(train, dtype)(x)


def _shortcut(x: jax.Array, channels: int, stride: int, train: bool, dtype: str) -> jax.Array:
  if stride == 1 and x.shape[-1] == channels:
    return x
  return _conv_norm(x, channels, 1, stride, train, dtype)


resnet18 = functools.partial(ResNet, (2, 2, 2, 2), BasicBlock)
resnet34 = functools.partial(ResNet, (3, 4, 6, 3), BasicBlock)
resnet50 = functools.partial(ResNet, (3, 4, 6, 3), Bottleneck)
