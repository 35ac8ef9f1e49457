"""Tests CUDA: class-wise filters against SciPy's correlation."""

import numpy as np
from scipy import signal

from miue_jax.data.dataset import Dataset, Split
from miue_jax.methods import METHODS, cuda

CLASSES = 7


def make_dataset(shape=(12, 9, 3)):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (30, *shape), np.uint8)
  labels = rng.permutation(np.arange(30, dtype=np.int32) % CLASSES)
  return Dataset("tiny", Split(images, labels), None, tuple("abcdefg"))


def test_images_are_filtered_and_rescaled():
  dataset = make_dataset()
  delta = METHODS["cuda"].generate(dataset, cuda.Settings(), 2, None, None).delta
  kernels = cuda.filters(CLASSES, 2).astype(float)
  for image, label, change in zip(dataset.train.images, dataset.train.labels, delta, strict=True):
    channels = [
      signal.correlate2d(image[..., c].astype(float), kernels[label], mode="same") for c in range(3)
    ]
    expected = np.stack(channels, axis=-1)
    expected = 255 * expected / expected.max()
    assert np.abs(image + change.astype(int) - expected).max() <= 0.5 + 1e-3
    assert (image + change).max() == 255


def test_filters_have_one_full_weight_and_small_neighbours():
  kernels = cuda.filters(200, seed=0).reshape(200, 9)
  ones = kernels == 1
  assert (ones.sum(axis=1) == 1).all()
  assert (ones.sum(axis=0) > 0).all()  # anywhere
  others = kernels[~ones]
  assert 0 <= others.min() < 0.01
  assert 0.29 < others.max() < 0.3
  assert len(np.unique(kernels, axis=0)) == 200


def test_a_black_image_stays_black():
  split = Split(np.zeros((4, 5, 5, 1), np.uint8), np.arange(4, dtype=np.int32) % 2)
  dataset = Dataset("black", split, None, ("a", "b"))
  assert not METHODS["cuda"].generate(dataset, cuda.Settings(), 0, None, None).delta.any()
