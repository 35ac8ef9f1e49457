"""Tests image shortcut squeezing on images in memory and on images that are read when needed."""

import numpy as np
import pytest

from miue_jax import defences, transforms
from miue_jax.data.dataset import Split
from miue_jax.data.images import LazyImages


def noisy(count, channels):
  return np.random.default_rng(0).integers(0, 256, (count, 16, 16, channels), np.uint8)


@pytest.mark.parametrize(
  ("name", "change"),
  [
    ("jpeg30", lambda x: transforms.jpeg(x, 30)),
    ("grayscale", transforms.grayscale),
    ("bits3", lambda x: transforms.bit_depth(x, 3)),
  ],
)
def test_a_defence_stores_transformed_images(name, change):
  split = Split(noisy(7, 3), np.arange(7, dtype=np.int32))
  stored = defences.build(name).preprocess(split, None, 0)
  np.testing.assert_array_equal(stored.images[:], change(split.images[:]))
  assert (stored.images[:] != split.images[:]).any()
  assert stored.labels is split.labels


@pytest.mark.parametrize("name", ["jpeg30", "grayscale", "bits3"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_that_are_read_when_needed_are_the_same(name, channels):
  images, labels = noisy(7, channels), np.arange(7, dtype=np.int32)
  preprocess = defences.build(name).preprocess
  held = preprocess(Split(images, labels), None, 0)
  lazy = LazyImages(lambda ids: images[ids], len(images), "lazy")
  late = preprocess(Split(lazy, labels), None, 0)
  assert not late.images.in_memory
  assert late.labels is held.labels is labels
  order = np.array([3, 0, 6])
  np.testing.assert_array_equal(late.images[order], held.images[order])
  assert held.images.shape == images.shape
  assert held.images.dtype == np.uint8
