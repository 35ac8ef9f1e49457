import fractions

import hypothesis
import numpy as np
from hypothesis import strategies as st

from miue_jax.data.sampling import Draw, stratified

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(np.array)


@hypothesis.given(labels=LABELS, data=st.data(), seed=st.integers(0, 2**31))
def test_stratified_keeps_the_share_of_every_class(labels, data, seed):
  count = data.draw(st.integers(0, len(labels)))
  chosen = stratified(labels, count, seed, Draw.HELD_OUT)
  assert len(chosen) == count
  assert (np.diff(chosen) > 0).all()
  for label, size in zip(*np.unique(labels, return_counts=True), strict=True):
    exact = fractions.Fraction(count * int(size), len(labels))
    assert abs((labels[chosen] == label).sum() - exact) < 1


def test_stratified_gives_the_rest_to_the_largest_remainders():
  # Shares of 4 out of 10: 2.0, 1.2, 0.8.
  labels = np.repeat([0, 1, 2], [5, 3, 2])
  chosen = stratified(labels, 4, 0, Draw.HELD_OUT)
  np.testing.assert_array_equal(np.bincount(labels[chosen]), [2, 1, 1])


def test_a_smaller_draw_is_contained_in_a_larger_one():
  labels = np.arange(60) % 3
  assert set(stratified(labels, 12, 7, Draw.TRAIN)) <= set(stratified(labels, 30, 7, Draw.TRAIN))


def test_every_example_is_equally_likely():
  labels = np.array([0] * 8 + [1] * 4)
  draws = 2000
  hits = np.zeros(len(labels))
  for seed in range(draws):
    hits[stratified(labels, 6, seed, Draw.HELD_OUT)] += 1
  # Each example is drawn with probability 1/2; five standard deviations of a binomial.
  assert np.abs(hits - draws / 2).max() < 5 * np.sqrt(draws / 4)


def test_seed_and_purpose_both_change_the_draw():
  labels = np.zeros(100, int)
  draws = {
    tuple(stratified(labels, 50, *use))
    for use in [(0, Draw.HELD_OUT), (0, Draw.TRAIN), (1, Draw.HELD_OUT)]
  }
  assert len(draws) == 3


def test_an_empty_split_gives_an_empty_draw():
  assert len(stratified(np.empty(0, int), 0, 0, Draw.HELD_OUT)) == 0
