"""Tests the patterns of classes: balanced, unlike each other, repeated, from the seed."""

import itertools

import numpy as np
import pytest

from miue_jax.owner import choose, patterns


def near(pattern):
  """Returns the correlations of a repeating pattern with itself, shifted by up to two pixels."""
  shifts = itertools.product(range(-2, 3), repeat=2)
  mirrored = pattern[:, ::-1]
  return np.array(
    [
      (
        (pattern * np.roll(pattern, shift, (0, 1))).mean()
        + (mirrored * np.roll(mirrored, shift, (0, 1))).mean()
      )
      / 2
      for shift in shifts
    ]
  )


@pytest.mark.parametrize(("classes", "least"), [(2, 2.5), (5, 2.5), (12, 2)])
def test_patterns_are_balanced_and_differ_in_what_filters_see(classes, least):
  found = patterns.drawn(classes, 3)
  assert found.shape == (classes, 4, 4)
  assert (np.abs(found) == 1).all()
  assert (found.sum((1, 2)) == 0).all()
  seen = [near(pattern) for pattern in found]
  for one, other in itertools.combinations([*seen, np.zeros(25)], 2):
    assert np.linalg.norm(one - other) > least


@pytest.mark.parametrize("classes", [81, 200])
def test_many_classes_have_larger_patterns_that_all_differ(classes):
  found = patterns.drawn(classes, 0)
  assert found.shape == (classes, 8, 8)
  assert (found.sum((1, 2)) == 0).all()
  assert len(np.unique(found, axis=0)) == classes


def test_keys_of_today_draw_the_same_patterns_for_ever():
  assert patterns.drawn(2, 0).tolist() == [
    [[1, 1, 1, 1], [-1, -1, -1, -1], [1, 1, 1, 1], [-1, -1, -1, -1]],
    [[-1, 1, 1, -1], [1, 1, -1, -1], [-1, 1, 1, -1], [1, 1, -1, -1]],
  ]


@pytest.mark.parametrize(
  ("side", "strength", "block"), [(28, 8, 1), (30, 4, 1), (32, 16, 1), (50, 8, 2)]
)
def test_every_picture_of_a_class_gets_its_pattern_from_edge_to_edge(side, strength, block):
  name = {4: "low", 8: "medium", 16: "high"}[strength]
  choice = choose.choose({"a": 9, "b": 9, "c": 9}, name, side, 7, gray=True)
  labels = np.array([2, 0, 2])
  found = patterns.perturbations(choice, labels, 3)
  assert found.dtype == np.int8
  assert found.shape == (3, side, side, 3)
  for row, column in itertools.product(range(side), repeat=2):
    expected = strength * patterns.drawn(3, 7)[labels, row // block % 4, column // block % 4]
    np.testing.assert_array_equal(found[:, row, column], expected[:, None].repeat(3, 1))


@pytest.mark.parametrize(
  ("side", "classes", "expected"), [(28, 2, 4), (50, 2, 8), (64, 81, 16), (3000, 2, 8)]
)
def test_patterns_repeat_after_their_period(side, classes, expected):
  counts = {str(label): 9 for label in range(classes)}
  choice = choose.choose(counts, "medium", side, 7, gray=True)
  assert patterns.period(choice, classes) == expected
  found = patterns.perturbations(choice, np.array([0]), classes)
  np.testing.assert_array_equal(found[:, expected:], found[:, :-expected])
  assert (found[:, expected // 2 :] != found[:, : -expected // 2]).any()


def test_another_seed_draws_others():
  assert (patterns.drawn(3, 0) == patterns.drawn(3, 0)).all()
  assert (patterns.drawn(3, 0) != patterns.drawn(3, 1)).any()
