"""Random noise: the control that every table needs.

  delta ~ U(-eps, eps) for every pixel of every image, or of every class

One pattern for each class (`method.class_wise`) is no mere control: a model learns it in place of
the images, as Huang et al. (ICLR 2021) observe.
"""

import time

import numpy as np

from miue_jax.data.dataset import Dataset
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.progress import Reporter
from miue_jax.methods import untrained
from miue_jax.methods.generated import Generated
from miue_jax.settings.config import Config


def generate(
  dataset: Dataset, config: Config, checkpoints: Checkpoints, progress: Reporter
) -> Generated:
  """Makes random noise; arguments as `alternating.generate`."""
  del checkpoints, progress
  started, epsilon = time.monotonic(), np.float32(config.method.epsilon)

  def noise(generator: np.random.Generator, count: int) -> np.ndarray:
    shape = (count, *dataset.train.images.shape[1:])
    return epsilon * (2 * generator.random(shape, np.float32) - 1)

  shared = noise(np.random.default_rng(config.seed), dataset.num_classes)

  def pattern(generator, images, labels):
    return shared[labels] if config.method.class_wise else noise(generator, len(images))

  return untrained.generate(dataset, config, pattern, started)
