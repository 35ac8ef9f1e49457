"""OPS: one-pixel shortcuts (Wu et al., ICLR 2023).

  for every class k:  (i, j), c <- argmax  mean |c - x_ij| / std |c - x_ij|,  c in {0, 1}^C
                      x_ij <- c  for every image x of class k

Mean and standard deviation are over the images of class k and the channels. No two classes get the
same pixel and colour. The change of the pixel has no bound: `norm="none"`. A bounded norm moves the
pixel towards the colour as far as the budget allows.
"""

import itertools

import numpy as np

from miue_jax.data.dataset import Dataset, Split
from miue_jax.methods.pattern import Draw
from miue_jax.methods.shared_settings import Norm, PatternSettings
from miue_jax.settings.errors import UserError
from miue_jax.settings.schema import settings

_BLOCK = 1024  # images read at a time


@settings
class Settings(PatternSettings):
  """Settings of OPS, with the values of the paper."""

  name: str = "ops"
  norm: Norm = "none"


def pattern(dataset: Dataset, settings: Settings, seed: int) -> Draw:
  """Returns the function that moves the pixel of every class.

  Raises:
    UserError: `secret` is set, but every image shows where its pixel is.
  """
  if settings.secret:
    raise UserError("OPS draws nothing that could be secret: choose another method.")
  del seed
  rows, columns, chosen = shortcuts(dataset.train, dataset.num_classes)

  def draw(generator, images, labels):
    del generator
    delta = np.zeros(images.shape, np.float32)
    at = (np.arange(len(labels)), rows[labels], columns[labels])
    delta[at] = chosen[labels] - images[at] / np.float32(255)
    return delta

  return draw


def shortcuts(train: Split, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns row `[K]`, column `[K]` and colour `[K, C]` in {0, 1} of the pixel of every class."""
  width, channels = train.images.shape[2:]
  colours = np.array(list(itertools.product((0, 1), repeat=channels)))
  sums, squares = _power_sums(train, classes)
  counts = np.bincount(train.labels, minlength=classes)
  taken, best = [], np.empty(classes, np.int64)
  for label in range(classes):
    score = _score(sums[label], squares[label], counts[label], colours).reshape(-1)
    score[taken] = -np.inf
    best[label] = np.argmax(score)
    taken.append(best[label])
  pixels, colour = np.divmod(best, len(colours))
  return pixels // width, pixels % width, colours[colour]


def _power_sums(train: Split, classes: int) -> np.ndarray:
  """Returns sums of x and of x^2 over the images of every class, int64 `[2, K, H, W, C]`."""
  sums = np.zeros((2, classes, *train.images.shape[1:]), np.int64)
  for start in range(0, len(train), _BLOCK):
    images = train.images[start : start + _BLOCK].astype(np.int64)
    labels = train.labels[start : start + _BLOCK]
    for label in np.unique(labels):
      of_class = images[labels == label]
      sums[0, label] += of_class.sum(axis=0)
      sums[1, label] += np.square(of_class).sum(axis=0)
  return sums


def _score(sums: np.ndarray, squares: np.ndarray, count: int, colours: np.ndarray) -> np.ndarray:
  """Returns mean over standard deviation of |c - x| for one class, `[H, W, colours]`.

  |c - x| is x where c is 0 and 255 - x where it is 1, so that sums of x and x^2 suffice.
  """
  # The shape [H, W, 1, C] broadcasts with colours [colours, C].
  sums, squares = sums[:, :, None], squares[:, :, None]
  flipped = 255 * count - sums
  flipped_squares = 255**2 * count - 510 * sums + squares
  mean = np.where(colours, flipped, sums).mean(axis=-1) / count
  square = np.where(colours, flipped_squares, squares).mean(axis=-1) / count
  # If a pixel is equal in all images, other colours are perfect shortcuts; the score stays finite.
  return mean / np.sqrt(np.maximum(square - mean**2, 1e-6))
