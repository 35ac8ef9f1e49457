"""Tests the patterns of gray pictures: balanced, unlike each other, repeated, from the seed."""

import itertools

import numpy as np
import pytest

from miue_jax.owner import choose, patterns


@pytest.mark.parametrize("classes", [2, 5, 12])
def test_patterns_are_balanced_and_no_shift_makes_two_alike(classes):
  found = patterns.drawn(classes, 3)
  assert found.shape == (classes, 4, 4)
  assert (np.abs(found) == 1).all()
  assert (found.sum((1, 2)) == 0).all()
  for one, other in itertools.combinations(found, 2):
    for flipped, rows, columns in itertools.product((1, -1), range(4), range(4)):
      moved = np.roll(one[:, ::flipped], (rows, columns), (0, 1))
      assert abs((moved * other).sum()) <= 8


@pytest.mark.parametrize("classes", [13, 200])
def test_many_classes_have_larger_patterns_that_all_differ(classes):
  found = patterns.drawn(classes, 0)
  assert found.shape == (classes, 8, 8)
  assert (found.sum((1, 2)) == 0).all()
  assert len(np.unique(found, axis=0)) == classes


def test_keys_of_today_draw_the_same_patterns_for_ever():
  assert patterns.drawn(2, 0).tolist() == [
    [[-1, -1, 1, 1], [1, -1, -1, -1], [1, 1, 1, 1], [-1, -1, 1, -1]],
    [[1, -1, 1, 1], [1, 1, -1, 1], [1, -1, -1, -1], [-1, -1, 1, -1]],
  ]


@pytest.mark.parametrize(("side", "strength"), [(28, 8), (30, 4), (32, 16)])
def test_every_picture_of_a_class_gets_its_pattern_from_edge_to_edge(side, strength):
  name = {4: "low", 8: "medium", 16: "high"}[strength]
  choice = choose.choose({"a": 9, "b": 9, "c": 9}, name, side, 7, gray=True)
  labels = np.array([2, 0, 2])
  found = patterns.perturbations(choice, labels, 3)
  assert found.dtype == np.int8
  assert found.shape == (3, side, side, 3)
  for row, column in itertools.product(range(side), repeat=2):
    expected = strength * patterns.drawn(3, 7)[labels, row % 4, column % 4]
    np.testing.assert_array_equal(found[:, row, column], expected[:, None].repeat(3, 1))


def test_another_seed_draws_others():
  assert (patterns.drawn(3, 0) == patterns.drawn(3, 0)).all()
  assert (patterns.drawn(3, 0) != patterns.drawn(3, 1)).any()
