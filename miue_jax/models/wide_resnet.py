"""Wide residual networks: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016."""

import functools
from collections.abc import Callable

import jax
from flax import linen as nn

from miue_jax.models import layers
from miue_jax.settings import config


class PreActBlock(nn.Module):
  """Batch norm, ReLU and 3x3 convolution, twice, and a shortcut; `channels` out.

  He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016. Where the shape changes, the
  shortcut is a 1x1 convolution of the first activation.

  Attributes:
    channels: number of channels out.
    stride: of the first convolution.
    dtype: of the computation.
    gate: what the residual branch goes through before it is added.
  """

  channels: int
  stride: int
  dtype: str
  gate: Callable[[jax.Array, str], jax.Array] = lambda y, dtype: y

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """`[batch, height, width, in]` -> `[batch, height / stride, width / stride, channels]`."""
    # "SAME" would pad a strided convolution on one side only; PyTorch pads both.
    conv = functools.partial(layers.conv, self.channels, dtype=self.dtype)
    active = nn.relu(layers.batch_norm(train, self.dtype)(x))
    y = conv((3, 3), strides=self.stride, padding=1)(active)
    y = nn.relu(layers.batch_norm(train, self.dtype)(y))
    y = self.gate(conv((3, 3), padding=1)(y), self.dtype)
    if self.stride > 1 or x.shape[-1] != self.channels:
      x = conv((1, 1), strides=self.stride, padding=0)(active)
    return x + y


class WideResNet(nn.Module):
  """Stem, three stages of pre-activation blocks, batch norm, global average, classifier.

  Attributes:
    depth: number of blocks in each stage, 5 in a network of 34 layers.
    factor: how many times wider than the 16, 32 and 64 channels of a thin network.
    model: at `width` 64 the stem has the published 16 channels, and all channels are proportional
      to it (rounded); `stem` is "small" (3x3, stride 1, for images of about 32 pixels) or
      "imagenet" (7x7, stride 2, batch norm, ReLU, then 3x3 max-pooling with stride 2).
    num_classes: number of logits.
  """

  depth: int
  factor: int
  model: config.Model
  num_classes: int

  @property
  def min_side(self) -> int:
    """Smallest height and width of an image, in pixels: the stride of the whole network."""
    return 4 if self.model.stem == "small" else 16

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
    """Images `[batch, height, width, channel]` in [0, 1] -> float32 (features, logits)."""
    width, dtype = self.model.width, self.model.dtype
    x = layers.normalise(images, self.model.normalise)
    if self.model.stem == "small":
      x = layers.conv(layers.scaled(16, width), (3, 3), dtype=dtype)(x)
    else:
      x = layers.imagenet_stem(x, layers.scaled(16, width), train, dtype)
    for stage in range(3):
      channels = layers.scaled(16 * 2**stage * self.factor, width)
      for index in range(self.depth):
        x = PreActBlock(channels, 2 if stage > 0 and index == 0 else 1, dtype)(x, train)
    features = layers.global_average(nn.relu(layers.batch_norm(train, dtype)(x)))
    return features, layers.classifier(self.num_classes)(features)


wrn34_10 = functools.partial(WideResNet, 5, 10)
