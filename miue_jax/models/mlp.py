"""Fully connected networks, down to the linear classifier."""

import functools

import jax
from flax import linen as nn

from miue_jax.models import layers
from miue_jax.settings import config


class MLP(nn.Module):
  """Hidden layers with ReLU, the first as large as the image and each next half the one before.

  For an image of 32x32x3 three layers are 3072-1536-classes and two are 3072-classes, the "3-NN"
  and "2-NN" of MI-UE; one layer is the linear classifier, whose features are the normalised
  pixels. `model.width` is not used: the sizes come from the image.

  Attributes:
    num_hidden: number of hidden layers, one less than the number of layers.
    model: normalisation and dtype; the classifier, the whole of the linear one, stays float32.
    num_classes: number of logits.
  """

  num_hidden: int
  model: config.Model
  num_classes: int

  @property
  def min_side(self) -> int:
    """Smallest height and width of an image, in pixels: enough for a last hidden layer of two."""
    return 2

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
    """Images `[batch, height, width, channel]` in [0, 1] -> float32 (features, logits)."""
    del train  # no layer behaves differently in training
    x = layers.normalise(images, self.model.normalise)
    x = x.reshape(len(x), -1)
    input_size = x.shape[-1]
    for layer in range(self.num_hidden):
      x = nn.relu(layers.dense(input_size // 2**layer, dtype=self.model.dtype)(x))
    features = x.astype("float32")
    return features, layers.classifier(self.num_classes)(features)


linear = functools.partial(MLP, 0)
mlp2 = functools.partial(MLP, 1)
mlp3 = functools.partial(MLP, 2)
