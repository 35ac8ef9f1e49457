"""LeNet-5: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998."""

import jax
from flax import linen as nn

from miue_jax.models import layers
from miue_jax.settings import config


class LeNet5(nn.Module):
  """Two 5x5 convolutions with max-pooling, two hidden layers, ReLU; no padding, no batch norm.

  `model.width` is the channels w of the first convolution; the other sizes keep the proportions of
  the classic 6-16-120-84: 8w/3 (rounded down), 20w and 14w, the last being the features. MI-UE's
  "LeNet-5 (width x3)" is w = 18: 18-48-360-252.
  """

  model: config.Model
  num_classes: int

  @property
  def min_side(self) -> int:
    """Smallest height and width of an image, in pixels."""
    return 16

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
    """Images `[batch, height, width, channel]` in [0, 1] -> float32 (features, logits)."""
    del train  # no layer behaves differently in training
    width, dtype = self.model.width, self.model.dtype
    x = layers.normalise(images, self.model.normalise)
    for channels in (width, 8 * width // 3):
      x = layers.conv(channels, (5, 5), padding="VALID", use_bias=True, dtype=dtype)(x)
      x = layers.halve(nn.relu(x))
    x = x.reshape(len(x), -1)
    for size in (20 * width, 14 * width):
      x = nn.relu(layers.dense(size, dtype=dtype)(x))
    features = x.astype("float32")
    return features, layers.classifier(self.num_classes)(features)
