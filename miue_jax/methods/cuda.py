"""CUDA: convolution-based unlearnable datasets (Sadasivan et al., CVPR 2023).

  s_k <- 3 x 3 numbers from U(0, p), one of them, at random, set to 1      one filter for each class
  x   <- s_y * x / max(s_y * x)        every channel filtered alike, zeros outside of the image

The blur has no bound: `norm="none"`. A bounded norm clips the change.
"""

import numpy as np

from miue_jax.data.dataset import Dataset
from miue_jax.methods.pattern import Draw
from miue_jax.methods.shared_settings import Norm, PatternSettings
from miue_jax.settings.schema import settings

SIZE = 3  # pixels
BLUR = 0.3  # p: the largest weight of a neighbour


@settings
class Settings(PatternSettings):
  """Settings of CUDA, with the values of the paper."""

  name: str = "cuda"
  norm: Norm = "none"


def pattern(dataset: Dataset, settings: Settings, seed: int) -> Draw:
  """Returns the function that blurs the images of every class."""
  del settings
  kernels = filters(dataset.num_classes, seed)

  def draw(generator, images, labels):
    del generator
    clean = images.astype(np.float32) / 255
    blurred = filtered(clean, kernels[labels])
    largest = blurred.max(axis=(1, 2, 3), keepdims=True)
    return np.where(largest > 0, blurred / np.where(largest > 0, largest, 1), clean) - clean

  return draw


def filters(classes: int, seed: int) -> np.ndarray:
  """Returns one filter for each class, float32 `[classes, 3, 3]`."""
  generator = np.random.default_rng(seed)
  kernels = generator.uniform(0, BLUR, (classes, SIZE * SIZE)).astype(np.float32)
  kernels[np.arange(classes), generator.integers(0, SIZE * SIZE, classes)] = 1
  return kernels.reshape(classes, SIZE, SIZE)


def filtered(images: np.ndarray, kernels: np.ndarray) -> np.ndarray:
  """Returns the correlation of every channel of image i with kernel i, `[n, H, W, C]`.

  Args:
    images: Images, float32 `[n, H, W, C]`, which are padded with zeros.
    kernels: Kernels, float32 `[n, 3, 3]`.
  """
  height, width = images.shape[1:3]
  margin = (SIZE // 2, SIZE // 2)
  padded = np.pad(images, ((0, 0), margin, margin, (0, 0)))
  result = np.zeros_like(images)
  for row, column in np.ndindex(SIZE, SIZE):
    weights = kernels[:, row, column].reshape(-1, 1, 1, 1)
    result += weights * padded[:, row : row + height, column : column + width]
  return result
