"""Random noise: the control experiment of every table.

  delta ~ U(-eps, eps) for every pixel of every image, or of every class

With one pattern for each class (`class_wise`), a model learns the pattern instead of the images, as
Huang et al. (ICLR 2021) observe.
"""

import numpy as np

from miue_jax.data.dataset import Dataset
from miue_jax.methods.pattern import Draw
from miue_jax.methods.shared_settings import PatternSettings
from miue_jax.settings.schema import settings


@settings
class Settings(PatternSettings):
  """Settings of random noise."""

  name: str = "random"
  class_wise: bool = False  # one perturbation for each class instead of one for each image


def pattern(dataset: Dataset, settings: Settings, seed: int) -> Draw:
  """Returns the function that draws the noise."""
  epsilon = np.float32(settings.epsilon)

  def noise(generator: np.random.Generator, count: int) -> np.ndarray:
    shape = (count, *dataset.train.images.shape[1:])
    return epsilon * (2 * generator.random(shape, np.float32) - 1)

  shared = noise(np.random.default_rng(seed), dataset.num_classes)

  def draw(generator, images, labels):
    return shared[labels] if settings.class_wise else noise(generator, len(images))

  return draw
