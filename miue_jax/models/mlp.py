"""Provides fully connected networks, down to the linear classifier."""

import functools

import jax

from miue_jax.models import layers
from miue_jax.models.network import Network


class MLP(Network):
  """Applies hidden layers with ReLU; the first is as large as the image, each next half as large.

  For an image of 32x32x3 three layers are 3072-1536-classes and two are 3072-classes, the "3-NN"
  and "2-NN" of MI-UE. One layer is the linear classifier, whose features are the normalised pixels.
  The sizes follow from the image; `model.width` is not used. The classifier is always float32.

  Attributes:
    num_hidden: Number of hidden layers, one less than the number of layers.
  """

  num_hidden: int

  sides = (2, 2)  # a last hidden layer of two or more units

  def backbone(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps normalised images `[batch, height, width, channel]` to features `[batch, d]`."""
    del train  # no layer behaves differently in training
    x = x.reshape(len(x), -1)
    input_size = x.shape[-1]
    for layer in range(self.num_hidden):
      x = layers.relu(layers.dense(input_size // 2**layer, dtype=self.model.dtype)(x))
    return x


linear = functools.partial(MLP, num_hidden=0)
mlp2 = functools.partial(MLP, num_hidden=1)
mlp3 = functools.partial(MLP, num_hidden=2)
