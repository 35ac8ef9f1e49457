"""Tests AR: the filter of a class answers its perturbations by zero, those of others strongly."""

import numpy as np
import pytest
from scipy import signal

from miue_jax.data.dataset import Dataset, Split
from miue_jax.methods import METHODS, ar, pattern

CLASSES = 5


def answers(filters, delta):
  """Returns the valid correlations summed over channels, `[H - 2, W - 2]`, in float64."""
  return sum(
    signal.correlate2d(delta[..., c].astype(float), filters[c].astype(float), mode="valid")
    for c in range(delta.shape[-1])
  )


@pytest.fixture(scope="module", params=[(32, 32, 3), (28, 20, 1)], ids=str)
def made(request):
  """Returns processes of five classes and an unclipped perturbation of every class."""
  processes = ar.find_processes(np.random.default_rng(0), CLASSES, request.param)
  signals = ar.slide(np.random.default_rng(1), processes, request.param[:2])
  return processes, pattern.to_budget(signals, 1.0, "l2")


def test_the_matching_filter_answers_by_zero(made):
  processes, deltas = made
  filters = ar.matching_filters(processes)
  for i in range(CLASSES):
    # The root mean square of a perturbation is 1.
    assert np.abs(answers(filters[i], deltas[i])).max() < 1e-4


def test_filters_of_other_classes_answer(made):
  processes, deltas = made
  filters = ar.matching_filters(processes)
  for i in range(CLASSES):
    for j in set(range(CLASSES)) - {i}:
      assert np.maximum(0, answers(filters[i], deltas[j])).mean() > 0.05


def test_responses_are_the_mean_positive_answers(made):
  processes, deltas = made
  filters = ar.matching_filters(processes)
  found = ar.responses(processes, deltas)
  expected = [[np.maximum(0, answers(f, d)).mean() for d in deltas] for f in filters]
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_coefficients_sum_to_one_and_signals_do_not_diverge(made):
  processes, _ = made
  np.testing.assert_allclose(processes.sum(axis=(2, 3)), 1, rtol=1e-4)
  assert not processes[:, :, 2, 2].any()
  signals = ar.slide(np.random.default_rng(2), np.repeat(processes, 20, axis=0), (32, 32))
  assert np.abs(signals).max() < 20


def test_images_have_different_starts_and_classes_different_processes():
  images = np.full((20, 32, 32, 3), 128, np.uint8)
  labels = np.arange(20, dtype=np.int32) % 2
  dataset = Dataset("gray", Split(images, labels), None, ("a", "b"))
  settings = ar.Settings(epsilon=20 / 255)  # large compared with rounding
  delta = METHODS["ar"].generate(dataset, settings, 6, None, None).delta
  assert len(np.unique(delta.reshape(20, -1), axis=0)) == 20
  filters = ar.matching_filters(ar.find_processes(np.random.default_rng(6), 2, images.shape[1:]))
  for image, label in zip(delta, labels, strict=True):
    own, other = (np.abs(answers(filters[k], image)).mean() for k in (label, 1 - label))
    assert own < other / 3
