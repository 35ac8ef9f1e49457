"""MobileNetV2: Sandler et al., "Inverted Residuals and Linear Bottlenecks", CVPR 2018."""

import jax
from flax import linen as nn

from miue_jax.models import layers
from miue_jax.settings import config

# Table 2 of the paper: expansion, channels, number of blocks, stride of the first one.
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
  """1x1 convolution up, 3x3 convolution of each channel alone, linear 1x1 convolution down.

  Attributes:
    expansion: channels between, per channel of the input; at 1 the first convolution is left out.
    channels: number of channels out.
    stride: of the 3x3 convolution; where it is 1 and the channels stay, the input is added.
    dtype: of the computation.
  """

  expansion: int
  channels: int
  stride: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """`[batch, height, width, in]` -> `[batch, height / stride, width / stride, channels]`."""
    hidden = self.expansion * x.shape[-1]
    y = x
    if self.expansion > 1:
      y = nn.relu6(_conv_norm(y, hidden, 1, 1, train, self.dtype))
    y = nn.relu6(_conv_norm(y, hidden, 3, self.stride, train, self.dtype, groups=hidden))
    y = _conv_norm(y, self.channels, 1, 1, train, self.dtype)
    return x + y if self.stride == 1 and x.shape[-1] == self.channels else y


class MobileNetV2(nn.Module):
  """Stem, seven stages of inverted residuals, 1x1 convolution, global average, classifier.

  Without the dropout that some put before the classifier.

  Attributes:
    model: at `width` 64 the network is the published one, and all channels are proportional to it
      (rounded); `stem` is "imagenet" (the published strides, 32 in all) or "small" (for images of
      about 32 pixels: the first convolution and the second stage keep the size; 8 in all).
    num_classes: number of logits.
    stages: as `STAGES`.
  """

  model: config.Model
  num_classes: int
  stages: tuple[tuple[int, int, int, int], ...] = STAGES

  @property
  def min_side(self) -> int:
    """Smallest height and width of an image, in pixels: the stride of the whole network."""
    return 8 if self.model.stem == "small" else 32

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
    """Images `[batch, height, width, channel]` in [0, 1] -> float32 (features, logits)."""
    width, dtype = self.model.width, self.model.dtype
    early_stride = 1 if self.model.stem == "small" else 2
    x = layers.normalise(images, self.model.normalise)
    x = nn.relu6(_conv_norm(x, layers.scaled(32, width), 3, early_stride, train, dtype))
    for stage, (expansion, channels, depth, stride) in enumerate(self.stages):
      for index in range(depth):
        first = early_stride if stage == 1 else stride
        block = InvertedResidual(
          expansion, layers.scaled(channels, width), first if index == 0 else 1, dtype
        )
        x = block(x, train)
    x = nn.relu6(_conv_norm(x, layers.scaled(1280, width), 1, 1, train, dtype))
    features = layers.global_average(x)
    return features, layers.classifier(self.num_classes)(features)


def _conv_norm(
  x: jax.Array, channels: int, kernel: int, stride: int, train: bool, dtype: str, groups: int = 1
) -> jax.Array:
  # "SAME" would pad a strided convolution on one side only; PyTorch pads both.
  x = layers.conv(
    channels,
    (kernel, kernel),
    strides=stride,
    padding=kernel // 2,
    feature_group_count=groups,
    dtype=dtype,
  )(x)
  return layers.batch_norm(train, dtype)(x)
