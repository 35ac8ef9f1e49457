"""Provides a defence against patterns that repeat within an image: it subtracts what repeats."""

import itertools

import numpy as np
from scipy import ndimage

from miue_jax.defences.defence import Defence, each


def tiles(period: int) -> Defence:
  """Returns the defence that subtracts from each image what repeats every `period` pixels."""
  return Defence(f"tiles{period}", preprocess=each(lambda images: without_tiles(images, period)))


def without_tiles(images: np.ndarray, period: int) -> np.ndarray:
  """Subtracts from each image the pattern that repeats in it along both axes.

  For each channel, deviations from the local mean are compared at all pixels that are multiples of
  the period apart. Their median belongs to the pattern, since the content of an image does not
  repeat.

  Args:
    images: uint8 `[N, H, W, C]`.
    period: Period of the pattern in pixels.

  Returns:
    Images uint8 `[N, H, W, C]`.
  """
  exact = images.astype(np.float32)
  details = exact - ndimage.uniform_filter(exact, (0, period, period, 0))
  pattern = np.zeros_like(exact)
  for row, column in itertools.product(range(period), repeat=2):
    place = (slice(None), slice(row, None, period), slice(column, None, period))
    if details[place].size:  # not where the period exceeds the image
      pattern[place] = np.median(details[place], axis=(1, 2), keepdims=True)
  pattern -= pattern.mean(axis=(1, 2), keepdims=True)
  return np.clip(np.rint(exact - pattern), 0, 255).astype(np.uint8)
