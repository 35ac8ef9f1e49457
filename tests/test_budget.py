"""The budget: schedules of the paper, and properties of quantised perturbations."""

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from miue_jax import budget

ROUNDINGS = ("nearest", "truncate")
SHAPE = (3, 4, 2, 1)
epsilons = st.floats(0.51 / 255, 127 / 255)
images = hnp.arrays(np.uint8, SHAPE)
# These exceed every budget, so that clipping matters.
deltas = hnp.arrays(np.float32, SHAPE, elements=st.floats(-1, 1, width=32))


@pytest.mark.parametrize(("epoch", "levels"), [(1, 0.2), (50, 0.298), (51, 0.3), (100, 0.398)])
def test_step_size_is_that_of_the_authors(epoch, levels):
  assert budget.step_size(epoch, 100, 0.2, 0.4) == pytest.approx(levels, rel=1e-12)


def test_descend_steps_against_the_sign():
  moved = budget.descend(np.zeros(3), np.array([2.0, -1e-30, 0.0]), 0.5)
  np.testing.assert_array_equal(moved, [-0.5, 0.5, 0.0])


@pytest.mark.parametrize(("levels", "parts"), [(8, 2048), (16, 1024), (127, 256), (255, 128)])
def test_a_level_has_as_many_parts_as_int16_allows(levels, parts):
  assert budget.resolution(levels / 255) == parts
  assert levels * parts <= 32767 < 2 * levels * parts + 2 * parts


@hypothesis.given(
  radius=epsilons, fractions=hnp.arrays(np.float32, 9, elements=st.floats(-1, 1, width=32))
)
def test_packing_rounds_by_at_most_half_a_part(radius, fractions):
  delta, parts = np.float32(radius) * fractions, budget.resolution(radius)
  stored = budget.pack(delta, parts)
  assert stored.dtype == np.int16
  error = budget.unpack(stored, parts).astype(float) - delta
  assert np.abs(255 * parts * error).max() <= 0.51
  whole = np.arange(-budget.budget(radius) + 1, budget.budget(radius))
  np.testing.assert_array_equal(budget.pack(np.float32(whole / 255), parts), whole * parts)


_project = jax.jit(budget.project)


@hypothesis.settings(deadline=None)
@hypothesis.given(images=images, delta=deltas, epsilon=epsilons)
def test_projection_is_feasible_nearest_and_idempotent(images, delta, epsilon):
  clean = images.astype(np.float32) / 255
  projected = np.asarray(_project(clean, delta, np.float32(epsilon)), np.float64)
  rounding = 2.0**-23  # of a float32 sum near 1
  assert np.abs(projected).max() <= epsilon + rounding
  assert (clean + projected).min() + rounding >= 0
  assert (clean + projected).max() <= 1 + rounding
  # The feasible set is a box: its projection is a clip to both bounds at once.
  low, high = np.maximum(-epsilon, -clean), np.minimum(epsilon, 1 - clean)
  np.testing.assert_allclose(projected, np.clip(delta, low, high), rtol=0, atol=rounding)
  again = _project(clean, projected.astype(np.float32), np.float32(epsilon))
  np.testing.assert_allclose(again, projected, rtol=0, atol=rounding)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@hypothesis.given(images=images, delta=deltas, epsilon=epsilons)
def test_stored_images_keep_the_budget(rounding, images, delta, epsilon):
  quantised = budget.quantise(images, delta, epsilon, rounding)
  assert quantised.dtype == np.int8
  poisoned = images.astype(int) + quantised
  assert np.abs(poisoned - images).max() <= round(255 * epsilon)
  assert poisoned.min() >= 0
  assert poisoned.max() <= 255


@pytest.mark.parametrize("rounding", ROUNDINGS)
@hypothesis.given(images=images, delta=deltas, epsilon=epsilons)
def test_an_image_keeps_its_l2_budget_and_uses_it(rounding, images, delta, epsilon):
  quantised = budget.quantise(images, delta, epsilon, rounding, "l2")
  assert quantised.dtype == np.int8
  assert not budget.exceeds(quantised, epsilon, "l2").any()
  change = quantised.astype(np.float64).reshape(len(quantised), -1)
  assert np.sqrt((change**2).mean(axis=1)).max() <= 255 * epsilon * (1 + 1e-12)
  assert (images + quantised.astype(int)).min() >= 0
  assert (images + quantised.astype(int)).max() <= 255
  # An image that keeps the budget is not scaled down.
  small = delta * np.float32(epsilon / 2)
  plain = budget.quantise(images, small, 127 / 255, rounding)
  kept = ~budget.exceeds(plain, epsilon, "l2")
  found = budget.quantise(images, small, epsilon, rounding, "l2")
  np.testing.assert_array_equal(found[kept], plain[kept])


def test_an_l2_budget_is_per_image_and_scales_it_down_as_a_whole():
  images = np.full((2, 10, 10, 1), 128, np.uint8)
  delta = np.zeros(images.shape, np.float32)
  delta[0] = np.linspace(-40, 40, 100).reshape(10, 10, 1) / 255  # root mean square 23.3
  delta[1, 0, 0] = 90 / 255  # root mean square 9
  quantised = budget.quantise(images, delta, 10 / 255, norm="l2")
  assert 9.8 <= np.sqrt((quantised[0].astype(float) ** 2).mean()) <= 10
  ratio = np.linalg.norm(quantised[0]) / np.linalg.norm(255 * delta[0])
  assert np.abs(quantised[0] - 255 * delta[0] * ratio).max() < 1
  np.testing.assert_array_equal(quantised[1], np.rint(255 * delta[1]))


@hypothesis.given(images=images, target=images)
def test_without_a_norm_any_image_can_be_reached(images, target):
  delta = target.astype(np.float32) / 255 - images.astype(np.float32) / 255
  quantised = budget.quantise(images, delta, 8 / 255, norm="none")
  assert quantised.dtype == np.int16
  np.testing.assert_array_equal(images + quantised, target)


def test_exceeds_finds_each_image_over_the_budget():
  delta = np.zeros((3, 2, 2, 1), np.int8)
  delta[0, 0, 0], delta[1] = 9, 5
  assert budget.exceeds(delta, 8 / 255, "linf").tolist() == [True, False, False]
  assert budget.exceeds(delta, 4.6 / 255, "l2").tolist() == [False, True, False]
  assert budget.exceeds(delta, 4.4 / 255, "l2").tolist() == [True, True, False]
  assert not budget.exceeds(delta, 1 / 255, "none").any()


@hypothesis.given(images=images, delta=deltas, epsilon=epsilons)
def test_nearest_is_within_half_a_level_of_the_exact_image(images, delta, epsilon):
  delta = np.clip(delta, -epsilon, epsilon)
  quantised = budget.quantise(images, delta.astype(np.float32), epsilon)
  asked = np.clip(images + 255 * delta.astype(np.float64), 0, 255)
  assert np.abs(images + quantised.astype(int) - asked).max() <= 0.5 + 1e-4


@hypothesis.given(images=images, levels=hnp.arrays(np.int8, SHAPE, elements=st.integers(-8, 8)))
def test_whole_levels_survive_both_roundings(images, levels):
  expected = np.clip(images.astype(int) + levels, 0, 255) - images
  # Generation passes float32, after clip(x + delta, 0, 1) - x.
  clean = images.astype(np.float32) / 255
  delta = np.clip(clean + levels / np.float32(255), 0, 1).astype(np.float32) - clean
  for rounding in ROUNDINGS:
    np.testing.assert_array_equal(budget.quantise(images, delta, 8 / 255, rounding), expected)


def test_truncation_drops_the_fraction_and_nearest_rounds():
  images = np.full((1, 1, 4, 1), 100, np.uint8)
  delta = np.array([2.7, 2.2, -2.2, -2.7], np.float32).reshape(1, 1, 4, 1) / 255
  nearest = budget.quantise(images, delta, 8 / 255, "nearest")
  truncated = budget.quantise(images, delta, 8 / 255, "truncate")
  assert nearest.ravel().tolist() == [3, 2, -2, -3]
  assert truncated.ravel().tolist() == [2, 2, -3, -3]


def test_many_images_are_quantised_in_blocks(monkeypatch):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (11, 2, 2, 3), np.uint8)
  levels = rng.integers(-8, 9, images.shape)
  monkeypatch.setattr(budget, "_BLOCK_VALUES", 4 * 12)
  quantised = budget.quantise(images, (levels / 255).astype(np.float32), 8 / 255)
  np.testing.assert_array_equal(images + quantised.astype(int), np.clip(images + levels, 0, 255))


def test_random_noise_is_uniform_over_the_levels():
  images = np.full((1, 300, 400, 1), 128, np.uint8)
  noise = budget.random_noise(images, np.arange(len(images)), 8 / 255, seed=0)
  counts = np.bincount(noise.ravel().astype(int) + 8, minlength=17)
  expected = np.full(17, images.size / 16)
  expected[[0, -1]] /= 2  # only half a level rounds to the ends
  # Chi-squared with 16 degrees of freedom exceeds 39 once in a thousand.
  assert ((counts - expected) ** 2 / expected).sum() < 39


def test_random_noise_depends_only_on_the_seed():
  images = np.full((1, 8, 8, 1), 128, np.uint8)
  ids = np.arange(len(images))
  first, same, other = (budget.random_noise(images, ids, 8 / 255, seed) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, same)
  assert (first != other).any()
