"""SENet-18: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018.

As those who train on CIFAR use it: a ResNet-18 of pre-activation blocks, each with a gate, and with
batch norm and ReLU after the stem but not before the global average.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from miue_jax.models import layers, wide_resnet
from miue_jax.settings import config

REDUCTION = 16


def squeeze_excite(x: jax.Array, dtype: str) -> jax.Array:
  """Scales every channel by a gate in (0, 1) that sees the averages of all (section 3).

  To be called inside a module, which then owns the two hidden layers.
  """
  channels = x.shape[-1]
  squeezed = layers.global_average(x)
  hidden = nn.relu(layers.dense(max(1, channels // REDUCTION), dtype=dtype)(squeezed))
  gate = nn.sigmoid(layers.dense(channels, dtype=dtype)(hidden))
  return x * jnp.expand_dims(gate, (1, 2))


class SENet(nn.Module):
  """Stem, four stages of gated blocks that each double the channels, global average, classifier.

  Attributes:
    depths: number of blocks in each stage.
    model: `width` is the channels of the first stage; `stem` is "small" (3x3, stride 1, for images
      of about 32 pixels) or "imagenet" (7x7, stride 2, then 3x3 max-pooling with stride 2).
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
    width, dtype = self.model.width, self.model.dtype
    x = layers.normalise(images, self.model.normalise)
    if self.model.stem == "small":
      x = layers.conv(width, (3, 3), dtype=dtype)(x)
      x = nn.relu(layers.batch_norm(train, dtype)(x))
    else:
      x = layers.imagenet_stem(x, width, train, dtype)
    for stage, depth in enumerate(self.depths):
      for index in range(depth):
        stride = 2 if stage > 0 and index == 0 else 1
        block = wide_resnet.PreActBlock(width * 2**stage, stride, dtype, squeeze_excite)
        x = block(x, train)
    features = layers.global_average(x)
    return features, layers.classifier(self.num_classes)(features)


senet18 = functools.partial(SENet, (2, 2, 2, 2))
