"""Tests the linear model against NumPy in float64, and the projection against least squares."""

import numpy as np
import pytest

from miue_jax import defences
from miue_jax.data.dataset import Split
from miue_jax.data.images import LazyImages
from miue_jax.defences import projection

CLASSES = 3


def poisoned(count=300, side=6):
  """Returns noise with a pattern of 8 levels for each class, and the patterns."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, CLASSES, count, np.int32)
  patterns = 8 * rng.choice([-1, 1], (CLASSES, side, side, 3))
  images = rng.integers(90, 160, (count, side, side, 3)) + patterns[labels]
  return Split(images.astype(np.uint8), labels), patterns


def softmax_regression(split, seed):
  """Trains the linear model in float64."""
  rng = np.random.default_rng(seed)
  count, classes = len(split), CLASSES
  flat = split.images[:].reshape(count, -1) / 255
  weights = rng.uniform(-1, 1, (flat.shape[1], classes)) / np.sqrt(flat.shape[1])
  for epoch in range(20):
    rate = 0.1 * 0.1 ** ((epoch >= 10) + (epoch >= 15))
    for rows in rng.permutation(count)[: count // 128 * 128].reshape(-1, 128):
      logits = flat[rows] @ weights
      share = np.exp(logits - logits.max(axis=1, keepdims=True))
      share /= share.sum(axis=1, keepdims=True)
      error = share - np.eye(classes)[split.labels[rows]]
      weights -= rate * flat[rows].T @ error / 128
  return weights


def test_the_linear_model_is_softmax_regression(use_devices):
  use_devices(2)
  split, _ = poisoned()
  found = projection.fit_linear(split, 5)
  np.testing.assert_allclose(found, softmax_regression(split, 5), atol=1e-5)


def test_the_projection_is_the_residual_of_least_squares():
  rng = np.random.default_rng(1)
  images = rng.integers(60, 190, (5, 6, 6, 3), np.uint8)
  weights = rng.standard_normal((108, CLASSES))
  basis, _ = np.linalg.qr(weights.astype(np.float32))
  flat = images.reshape(5, -1).astype(float)
  coefficients = np.linalg.lstsq(weights, flat.T, rcond=None)[0]
  residual = flat - (weights @ coefficients).T
  rest = projection.remove(images, basis)
  assert rest.dtype == np.uint8
  assert rest.shape == images.shape
  np.testing.assert_allclose(rest.reshape(5, -1), np.clip(residual, 0, 255), atol=0.501)


def test_class_patterns_are_removed_and_other_content_stays(use_devices):
  use_devices(1)
  split, patterns = poisoned(count=1500)
  rest = defences.build("projection").preprocess(split, None, 0)
  assert rest.labels is split.labels

  def strength(images):
    """Returns the component of each class mean along its pattern, relative to the pattern."""
    mean = images.astype(float).mean(axis=0)
    means = [images[split.labels == k].astype(float).mean(axis=0) - mean for k in range(CLASSES)]
    centred = patterns - patterns.mean(axis=0)
    return [(m * p).sum() / (p * p).sum() for m, p in zip(means, centred, strict=True)]

  assert min(strength(split.images[:])) > 0.9
  assert max(np.abs(strength(rest.images[:]))) < 0.3
  # Differences between images of one class stay: only three of 108 directions are removed.
  one_class = split.labels == 0
  varying = [x.images[one_class] - x.images[one_class].mean(axis=0) for x in (split, rest)]
  assert np.corrcoef(varying[0].ravel(), varying[1].ravel())[0, 1] > 0.9


@pytest.mark.parametrize("devices", [1, 4])
def test_images_that_are_read_when_needed_are_the_same(use_devices, devices):
  use_devices(devices)
  split, _ = poisoned(count=50)  # fewer than a batch
  lazy = LazyImages(lambda ids: split.images[ids], len(split), "lazy")
  preprocess = defences.build("projection").preprocess
  held, late = preprocess(split, None, 3), preprocess(Split(lazy, split.labels), None, 3)
  assert not late.images.in_memory
  np.testing.assert_array_equal(late.images[10:20], held.images[10:20])
  other = preprocess(split, None, 4)
  assert (other.images[:] != held.images).any()
