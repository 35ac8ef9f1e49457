"""A network for tests of methods."""

from flax import linen as nn

from miue_jax.config import Model
from miue_jax.models import layers


class Tiny(nn.Module):
  """One hidden layer with batch norm, soon compiled."""

  model: Model
  num_classes: int
  min_side = 1

  @nn.compact
  def __call__(self, images, train=False):
    hidden = nn.Dense(16)(images.reshape(len(images), -1))
    # Not ReLU: an image whose units are all off would have no gradient, and no delta.
    features = nn.tanh(layers.batch_norm(train, "float32")(hidden))
    return features, layers.classifier(self.num_classes)(features)
