"""DenseNet: Huang et al., "Densely Connected Convolutional Networks", CVPR 2017."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from miue_jax.models import layers
from miue_jax.settings import config


class DenseLayer(nn.Module):
  """A 1x1 convolution to `4 * growth` channels and a 3x3 one to `growth`, appended to the input."""

  growth: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """`[batch, height, width, in]` -> `[batch, height, width, in + growth]`."""
    y = nn.relu(layers.batch_norm(train, self.dtype)(x))
    y = layers.conv(4 * self.growth, (1, 1), dtype=self.dtype)(y)
    y = nn.relu(layers.batch_norm(train, self.dtype)(y))
    y = layers.conv(self.growth, (3, 3), dtype=self.dtype)(y)
    return jnp.concatenate([x, y.astype(x.dtype)], axis=-1)


class DenseNet(nn.Module):
  """Stem, four blocks of dense layers, between them transitions that halve channels and sides.

  DenseNet-BC in the paper's terms: bottlenecks, and a compression of 1/2.

  Attributes:
    depths: number of layers in each block.
    model: `width` is the channels of the stem, twice the growth rate (32 in DenseNet-121; an odd
      width is rounded); `stem` is "small" (3x3, stride 1, for images of about 32 pixels) or
      "imagenet" (7x7, stride 2, batch norm, ReLU, then 3x3 max-pooling with stride 2).
    num_classes: number of logits.
  """

  depths: tuple[int, int, int, int]
  model: config.Model
  num_classes: int

  @property
  def min_side(self) -> int:
    """Smallest height and width of an image, in pixels: the stride of the whole network."""
    return 8 if self.model.stem == "small" else 32

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
    """Images `[batch, height, width, channel]` in [0, 1] -> float32 (features, logits)."""
    growth, dtype = layers.scaled(32, self.model.width), self.model.dtype
    x = layers.normalise(images, self.model.normalise)
    if self.model.stem == "small":
      x = layers.conv(2 * growth, (3, 3), dtype=dtype)(x)
    else:
      x = layers.imagenet_stem(x, 2 * growth, train, dtype)
    for block, depth in enumerate(self.depths):
      if block > 0:
        x = nn.relu(layers.batch_norm(train, dtype)(x))
        x = layers.conv(x.shape[-1] // 2, (1, 1), dtype=dtype)(x)
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))
      for _ in range(depth):
        x = DenseLayer(growth, dtype)(x, train)
    features = layers.global_average(nn.relu(layers.batch_norm(train, dtype)(x)))
    return features, layers.classifier(self.num_classes)(features)


densenet121 = functools.partial(DenseNet, (6, 12, 24, 16))
