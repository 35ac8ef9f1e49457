"""Provides MobileNetV2: Sandler et al., "Inverted Residuals and Linear Bottlenecks", CVPR 2018."""

import jax
from flax import linen as nn

from miue_jax.models import layers
from miue_jax.models.network import Network

# Table 2 of the paper: expansion, channels, number of blocks, stride of the first block.
STAGES = (
  (1, 16, 1, 1),
  (6, 24, 2, 2),
  (6, 32, 3, 2),
  (6, 64, 4, 2),
  (6, 96, 3, 1),
  (6, 160, 3, 2),
  (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
  """Applies a 1x1 convolution up, a 3x3 depthwise convolution and a linear 1x1 convolution down.

  Attributes:
    expansion: Hidden channels per input channel; 1 leaves out the first convolution.
    channels: Number of output channels.
    stride: Stride of the 3x3 convolution; the input is added if the shape is unchanged.
    dtype: Type of the computation.
  """

  expansion: int
  channels: int
  stride: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps `[batch, height, width, in]` to `[batch, height / stride, width / stride, channels]`."""
    hidden = self.expansion * x.shape[-1]
    y = x
    if self.expansion > 1:
      y = nn.relu6(layers.conv_norm(y, hidden, 1, 1, train, self.dtype))
    y = nn.relu6(layers.conv_norm(y, hidden, 3, self.stride, train, self.dtype, groups=hidden))
    y = layers.conv_norm(y, self.channels, 1, 1, train, self.dtype)
    return x + y if self.stride == 1 and x.shape[-1] == self.channels else y


class MobileNetV2(Network):
  """Applies a stem, seven stages of inverted residuals, and a 1x1 convolution.

  At `model.width` 64 the network has its published size, and all channels are proportional to the
  width (rounded). The stem "imagenet" has the published strides, 32 in total. With "small", for
  images of about 32 pixels, the first convolution and the second stage keep the size: 8 in total.
  The network has no dropout before the classifier.

  Attributes:
    stages: Rows as in `STAGES`.
  """

  stages: tuple[tuple[int, int, int, int], ...] = STAGES

  def backbone(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps normalised images `[batch, height, width, channel]` to features `[batch, d]`."""
    width, dtype = self.model.width, self.model.dtype
    early_stride = 1 if self.model.stem == "small" else 2
    x = nn.relu6(layers.conv_norm(x, layers.scaled(32, width), 3, early_stride, train, dtype))
    for stage, (expansion, channels, depth, stride) in enumerate(self.stages):
      first = early_stride if stage == 1 else stride
      for index in range(depth):
        step = first if index == 0 else 1
        x = InvertedResidual(expansion, layers.scaled(channels, width), step, dtype)(x, train)
    x = nn.relu6(layers.conv_norm(x, layers.scaled(1280, width), 1, 1, train, dtype))
    return layers.global_average(x)
