"""Tests what is kept of a generation for pictures that come later."""

import numpy as np

from miue_jax.owner import generate


def test_patterns_are_whole_although_pictures_show_parts_of_them():
  rng = np.random.default_rng(0)
  whole = rng.choice([-8, 8], (2, 3, 6, 6, 1)).astype(np.int8)  # 2 members, 3 classes
  labels = np.repeat([0, 1, 2], 40)
  delta = whole[np.arange(120) % 2, labels]
  black_or_white = rng.random(delta.shape) < 0.3
  shown = np.where(black_or_white, delta // 3, delta).astype(np.int8)
  np.testing.assert_array_equal(generate._patterns(shown, labels, 2, 3), whole)


def test_a_class_without_a_picture_of_a_member_has_the_pattern_of_another():
  delta = np.arange(1, 5, dtype=np.int8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.int8)
  patterns = generate._patterns(delta, np.array([0, 1, 0, 0]), 2, 2)
  assert patterns[:, :, 0, 0, 0].tolist() == [[3, 2], [4, 2]]
