"""CUDA: convolution-based unlearnable datasets (Sadasivan et al., CVPR 2023).

  s_k <- 3 x 3 numbers from U(0, p), one of them, at random, set to 1        a filter for each class
  x   <- s_y * x / max(s_y * x)        every channel filtered alike, zeros outside of the image

The blur is not bounded by a norm: `method.norm="none"`. A bounded norm clips the change.
"""

import time

import numpy as np

from miue_jax.data.dataset import Dataset
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.progress import Reporter
from miue_jax.methods import untrained
from miue_jax.methods.generated import Generated
from miue_jax.settings.config import Config

SIZE = 3  # pixels
BLUR = 0.3  # p: the largest weight of a neighbour


def generate(
  dataset: Dataset, config: Config, checkpoints: Checkpoints, progress: Reporter
) -> Generated:
  """Makes a CUDA poison; arguments as `alternating.generate`."""
  del checkpoints, progress
  started = time.monotonic()
  kernels = filters(dataset.num_classes, config.seed)

  def pattern(generator, images, labels):
    del generator
    clean = images.astype(np.float32) / 255
    blurred = filtered(clean, kernels[labels])
    largest = blurred.max(axis=(1, 2, 3), keepdims=True)
    return np.where(largest > 0, blurred / np.where(largest > 0, largest, 1), clean) - clean

  return untrained.generate(dataset, config, pattern, started)


def filters(classes: int, seed: int) -> np.ndarray:
  """One filter for each class, float32 `[classes, 3, 3]`."""
  generator = np.random.default_rng(seed)
  kernels = generator.uniform(0, BLUR, (classes, SIZE * SIZE)).astype(np.float32)
  kernels[np.arange(classes), generator.integers(0, SIZE * SIZE, classes)] = 1
  return kernels.reshape(classes, SIZE, SIZE)


def filtered(images: np.ndarray, kernels: np.ndarray) -> np.ndarray:
  """Correlates every channel of image i with kernel i.

  Args:
    images: float32 `[n, H, W, C]`; zeros are assumed around them.
    kernels: float32 `[n, 3, 3]`.

  Returns:
    As `images`.
  """
  height, width = images.shape[1:3]
  margin = (SIZE // 2, SIZE // 2)
  padded = np.pad(images, ((0, 0), margin, margin, (0, 0)))
  result = np.zeros_like(images)
  for row, column in np.ndindex(SIZE, SIZE):
    weights = kernels[:, row, column].reshape(-1, 1, 1, 1)
    result += weights * padded[:, row : row + height, column : column + width]
  return result
