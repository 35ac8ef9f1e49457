"""Tests that patterns that repeat are subtracted and that nothing else is."""

import numpy as np
import pytest

from miue_jax import defences
from miue_jax.data.dataset import Split
from miue_jax.data.images import Images
from miue_jax.defences import repetition


@pytest.fixture
def images():
  """Returns two images in which the brightness rises slowly, uint8 `[2, 32, 30, 3]`."""
  rows, columns = np.mgrid[:32, :30]
  planes = [90 + rows[..., None] + columns[..., None] * k for k in ((0, 1, 2), (1, 0, -1))]
  return np.stack(planes).astype(np.uint8)


@pytest.mark.parametrize("period", [4, 5])
def test_a_pattern_that_repeats_is_subtracted(images, period):
  signs = np.random.default_rng(0).permutation(np.resize([-1, 1], period**2))
  signs = signs - signs.mean()
  pattern = np.tile(signs.reshape(period, period, 1), (8, 8, 1))[:32, :30]
  found = repetition.without_tiles(np.rint(images + 20 * pattern).astype(np.uint8), period)
  inner = np.abs(found.astype(int) - images)[:, period:-period, period:-period]
  assert inner.max() <= 2  # what was added changes by 20


def test_what_does_not_repeat_stays(images):
  noise = np.random.default_rng(1).integers(-20, 21, images.shape)
  noisy = (images + noise).astype(np.uint8)
  change = repetition.without_tiles(noisy, 4).astype(int) - noisy
  assert np.abs(change).mean() < 4  # a median of 56 values that have a mean size of 10


def test_a_period_larger_than_the_image(images):
  small = images[:, :6, :7]
  assert repetition.without_tiles(small, 8).shape == small.shape


def test_the_defence_is_known_by_name(images):
  split = Split(Images(images), np.array([0, 1]))
  changed = defences.build("tiles4").preprocess(split, None, 0).images[:]
  np.testing.assert_array_equal(changed, repetition.without_tiles(images, 4))
