"""Tests random noise: it is uniform, with one pattern for each class on request."""

import numpy as np
import pytest
from scipy import stats

from miue_jax.data.dataset import Dataset, Split
from miue_jax.methods import METHODS, random


def run(**changes):
  images = np.full((60, 12, 12, 3), 128, np.uint8)
  labels = np.arange(60, dtype=np.int32) % 3
  dataset = Dataset("gray", Split(images, labels), None, tuple("abc"))
  return METHODS["random"].generate(
    dataset, random.Settings(**changes), 1, None, None
  ).delta, labels


@pytest.mark.parametrize("class_wise", [False, True])
def test_noise_is_uniform(class_wise):
  delta, labels = run(class_wise=class_wise)
  drawn = delta[np.unique(labels, return_index=True)[1]] if class_wise else delta
  expected = np.full(17, drawn.size / 16)
  expected[[0, -1]] /= 2  # only half a level rounds to the ends
  found = np.bincount(drawn.ravel().astype(int) + 8, minlength=17)
  assert stats.chisquare(found, expected).pvalue > 1e-3


def test_a_class_has_one_pattern_only_on_request():
  for class_wise in (False, True):
    delta, labels = run(class_wise=class_wise)
    for label in range(3):
      of_class = delta[labels == label]
      assert (of_class == of_class[0]).all() == class_wise
    assert (delta[0] != delta[1]).any()
