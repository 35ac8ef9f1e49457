"""Tests OPS: one pixel, the same for a class, and the best one by the published score."""

import itertools

import numpy as np
import pytest

from miue_jax.data.dataset import Dataset, Split
from miue_jax.methods import METHODS, ops

CLASSES = 6


def make_dataset(shape, seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.permutation(np.arange(40, dtype=np.int32) % CLASSES)
  # Means and spreads differ, so that the pixels have different scores.
  low, high = np.sort(rng.integers(0, 256, (2, *shape)), axis=0)
  images = rng.integers(low, high + 1, (40, *shape)).astype(np.uint8)
  return Dataset("tiny", Split(images, labels), None, tuple("abcdef"))


def generate(dataset, **changes):
  return METHODS["ops"].generate(dataset, ops.Settings(**changes), 0, None, None).delta


def search(dataset):
  """Returns the result of the authors' search, pixel by pixel in float64."""
  images, labels = dataset.train.images[:] / 255, dataset.train.labels
  _, height, width, channels = images.shape
  taken, found = set(), []
  for label in range(CLASSES):
    scores = {}
    for place in itertools.product(range(height), range(width)):
      for colour in itertools.product((0, 1), repeat=channels):
        differences = np.abs(np.array(colour) - images[(labels == label, *place)])
        scores[place, colour] = differences.mean() / max(differences.std(), 1e-12)
    best = max((key for key in scores if key not in taken), key=scores.get)
    taken.add(best)
    found.append(best)
  return found


@pytest.mark.parametrize("shape", [(5, 4, 3), (6, 6, 1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_pixel_and_colour_are_those_of_a_plain_search(shape, seed):
  dataset = make_dataset(shape, seed)
  rows, columns, colours = ops.shortcuts(dataset.train, CLASSES)
  expected = search(dataset)
  assert list(zip(rows, columns, strict=True)) == [place for place, _ in expected]
  assert [tuple(colour) for colour in colours] == [colour for _, colour in expected]


def test_exactly_one_pixel_changes_and_is_the_same_in_a_class():
  dataset = make_dataset((8, 8, 3))
  poisoned = dataset.train.images[:] + generate(dataset)
  changed = (poisoned != dataset.train.images).any(axis=-1)
  assert (changed.sum(axis=(1, 2)) == 1).all()
  shown = set()
  for label in range(CLASSES):
    inside = dataset.train.labels == label
    assert (changed[inside] == changed[inside][0]).all()
    colours = poisoned[inside][changed[inside]]
    assert (colours == colours[0]).all()
    assert set(colours[0].tolist()) <= {0, 255}
    shown.add((int(np.flatnonzero(changed[inside][0])[0]), tuple(colours[0].tolist())))
  assert len(shown) == CLASSES


def test_a_pixel_that_never_varies_is_a_perfect_shortcut_but_not_twice():
  images = np.random.default_rng(0).integers(100, 156, (12, 4, 4, 1), np.uint8)
  images[:, 1, 2] = 0
  labels = np.arange(12, dtype=np.int32) % 2
  rows, columns, colours = ops.shortcuts(Split(images, labels), 2)
  assert (rows[0], columns[0], colours[0].tolist()) == (1, 2, [1])
  assert (rows[1], columns[1]) != (1, 2)


def test_a_bounded_pixel_moves_as_far_as_it_may():
  dataset = make_dataset((8, 8, 3))
  bounded = generate(dataset, norm="linf", epsilon=8 / 255)
  np.testing.assert_array_equal(bounded, np.clip(generate(dataset), -8, 8))
