"""Provides VGG with batch norm in its usual form for CIFAR.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR
2015; one linear classifier replaces the three fully connected layers.
"""

import functools

import jax

from miue_jax.models import layers
from miue_jax.models.network import Network


class VGG(Network):
  """Applies five stages of 3x3 convolutions with batch norm and ReLU, each with 2x2 max-pooling.

  The stages have w, 2w, 4w, 8w and 8w channels, where w is `model.width`. The 8w features are
  global averages, over a single pixel for images of 32. `model.stem` is not used.

  Attributes:
    depths: Number of convolutions in each stage.
  """

  depths: tuple[int, int, int, int, int]

  sides = (32, 32)  # five poolings leave one pixel

  def backbone(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps normalised images `[batch, height, width, channel]` to features `[batch, 8 w]`."""
    width, dtype = self.model.width, self.model.dtype
    for stage, depth in enumerate(self.depths):
      for _ in range(depth):
        # Batch norm cancels the bias, but the published numbers of parameters include it.
        x = layers.conv(width * 2 ** min(stage, 3), (3, 3), use_bias=True, dtype=dtype)(x)
        x = layers.relu(layers.batch_norm(train, dtype)(x))
      x = layers.halve(x)
    return layers.global_average(x)


vgg11_bn = functools.partial(VGG, depths=(1, 1, 2, 2, 2))
vgg19_bn = functools.partial(VGG, depths=(2, 2, 4, 4, 4))
