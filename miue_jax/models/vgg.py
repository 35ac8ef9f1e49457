"""VGG with batch norm, in its usual form for CIFAR.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR
2015; one linear classifier takes the place of the three fully connected layers.
"""

import functools

import jax
from flax import linen as nn

from miue_jax.models import layers
from miue_jax.settings import config


class VGG(nn.Module):
  """Five stages of 3x3 convolutions with batch norm and ReLU, each followed by 2x2 max-pooling.

  The stages have w, 2w, 4w, 8w and 8w channels, w being `model.width`; the 8w features are the
  global averages, of a single pixel in images of 32. `model.stem` is not used: there is none.

  Attributes:
    depths: number of convolutions in each stage.
    model: width, normalisation and dtype.
    num_classes: number of logits.
  """

  depths: tuple[int, int, int, int, int]
  model: config.Model
  num_classes: int

  @property
  def min_side(self) -> int:
    """Smallest height and width of an image, in pixels: five poolings leave one."""
    return 32

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
    """Images `[batch, height, width, channel]` in [0, 1] -> float32 (features, logits)."""
    width, dtype = self.model.width, self.model.dtype
    x = layers.normalise(images, self.model.normalise)
    for stage, depth in enumerate(self.depths):
      for _ in range(depth):
        # Batch norm cancels the bias, which counts all the same in the published sizes.
        x = layers.conv(width * 2 ** min(stage, 3), (3, 3), use_bias=True, dtype=dtype)(x)
        x = nn.relu(layers.batch_norm(train, dtype)(x))
      x = layers.halve(x)
    features = layers.global_average(x)
    return features, layers.classifier(self.num_classes)(features)


vgg11_bn = functools.partial(VGG, (1, 1, 2, 2, 2))
vgg19_bn = functools.partial(VGG, (2, 2, 4, 4, 4))
