"""Interpolation against a direct formula, the budget, and the way back, bit for bit."""

import hypothesis
import numpy as np
import pytest
import samples
from hypothesis import strategies as st
from PIL import Image

from miue_jax.pictures import carry
from miue_jax.pictures.decode import Picture
from miue_jax.settings.errors import UserError


def bilinear(delta, height, width):
  """Interpolates in float64; the triangle widens where the picture is smaller than the grid."""

  def matrix(length, cells):
    centre = (np.arange(length) + 0.5) * cells / length - 0.5
    reach = max(1, cells / length)
    taps = np.arange(-cells, 2 * cells)
    weights = np.maximum(0, 1 - np.abs(taps - centre[:, None]) / reach)
    folded = np.zeros((length, cells))
    for tap, column in zip(taps, weights.T, strict=True):
      folded[:, np.clip(tap, 0, cells - 1)] += column
    return folded / folded.sum(axis=1, keepdims=True)

  rows, columns = matrix(height, len(delta)), matrix(width, delta.shape[1])
  return np.einsum("hs,stc,wt->hwc", rows, delta.astype(float), columns)


@pytest.mark.parametrize("shape", [(40, 60), (16, 16), (5, 7), (16, 100), (1, 3), (333, 20)])
def test_carried_is_bilinear(shape):
  delta = samples.delta(np.random.default_rng(0))
  # Weights are rounded to 8 bits on each axis, at most 16 values differ, and the sum is rounded.
  exact = bilinear(delta, *shape)
  assert np.abs(carry.carried(delta, *shape) - exact).max() <= 0.5 + 2 * 16 / 512
  assert np.abs(carry.carried(delta, *shape, depth=16) / 257 - exact).max() <= 0.1


def test_carried_to_the_same_size_is_the_same():
  delta = samples.delta(np.random.default_rng(0))
  np.testing.assert_array_equal(carry.carried(delta, 16, 16), delta)
  np.testing.assert_array_equal(carry.carried(delta, 16, 16, depth=16), 257 * delta.astype(int))


def test_carried_keeps_a_constant():
  delta = np.full((7, 7, 3), -8, np.int8)
  assert (carry.carried(delta, 123, 45) == -8).all()


def test_the_weights_of_a_pixel_add_up():
  for length, cells in ((1, 64), (63, 64), (64, 64), (65, 64), (4001, 64), (10, 7)):
    taps, weights = carry._weights(length, cells)
    assert taps.min() >= 0
    assert taps.max() < cells
    assert weights.min() >= 0
    assert (weights.sum(axis=1) == 256).all()


def test_strips_do_not_show(monkeypatch):
  delta = samples.delta(np.random.default_rng(0))
  whole = carry.carried(delta, 200, 30)
  monkeypatch.setattr(carry, "_STRIP_VALUES", 100)
  np.testing.assert_array_equal(carry.carried(delta, 200, 30), whole)


@hypothesis.settings(max_examples=60)
@hypothesis.given(
  st.integers(0, 2**32 - 1),
  st.integers(1, 50),
  st.integers(1, 50),
  st.integers(1, 4),
  st.sampled_from([1, 3, 16, 33]),
  st.sampled_from([1, 8, 127]),
  st.booleans(),
)
def test_the_budget_holds_and_the_way_back_is_exact(seed, height, width, count, size, limit, wide):
  rng = np.random.default_rng(seed)
  original = (samples.deep if wide else samples.soft)(rng, height, width, count)
  delta = samples.delta(rng, size, limit=limit)
  changed, corrections = carry.apply(original, delta)
  assert changed.dtype == original.dtype
  assert changed.shape == original.shape
  colours = 1 if count < 3 else 3
  unit = 257 if wide else 1
  assert np.abs(changed.astype(int) - original)[..., :colours].max() <= limit * unit
  np.testing.assert_array_equal(changed[..., colours:], original[..., colours:])
  np.testing.assert_array_equal(carry.remove(changed, delta, corrections), original)


@pytest.mark.parametrize("value", [0, 255])
def test_a_black_or_white_picture_needs_next_to_no_corrections(value):
  original = np.full((500, 500, 3), value, np.uint8)
  delta = samples.delta(np.random.default_rng(0))
  changed, corrections = carry.apply(original, delta)
  assert len(corrections) < 100
  np.testing.assert_array_equal(carry.remove(changed, delta, corrections), original)


def test_gray_pictures_get_the_luma():
  delta = np.zeros((4, 4, 3), np.int8)
  delta[..., 1] = 10
  assert (carry.luma(delta) == 6).all()  # 0.587 of it
  original = np.full((9, 9, 1), 100, np.uint8)
  assert (carry.apply(original, delta)[0] == 106).all()
  assert (carry.luma(np.full((2, 2, 3), -8, np.int8)) == -8).all()


def test_corrections_of_other_pixels_are_refused():
  rng = np.random.default_rng(0)
  original, delta = samples.soft(rng), samples.delta(rng)
  changed, corrections = carry.apply(original, delta)
  for wrong in (corrections[: len(corrections) // 2], b"", b"nonsense"):
    with pytest.raises(UserError, match="do not belong to this key"):
      carry.remove(changed, delta, wrong)


def test_contrast_weights_of_smooth_and_busy_halves():
  board = 40 * (np.indices((64, 128)).sum(0) % 2)
  board[:, :64] = 0  # standard deviations: 0 on the left, 20 on the right
  picture = Picture((100 + board).astype(np.uint8)[..., None])
  weights = carry.contrast_weights(picture, 8, floor=0.25)
  np.testing.assert_allclose(weights[:, :4], 0.25)
  np.testing.assert_allclose(weights[:, 4:], 0.25 + 0.75 * 20 / 23, rtol=1e-6)


def test_contrast_of_pixels_that_are_cells_is_that_of_their_surroundings():
  board = 40 * (np.indices((32, 32)).sum(0) % 2)
  board[:, :16] = 0
  weights = carry.contrast_weights(
    Picture((100 + board).astype(np.uint8)[..., None]), 32, floor=0.25
  )
  np.testing.assert_allclose(weights[:, :14], 0.25, atol=1e-6)
  # 13 of the 25 pixels in a window have one of the two values.
  expected = 40 * np.sqrt(12 * 13) / 25
  np.testing.assert_allclose(weights[:, 18:], 0.25 + 0.75 * expected / (expected + 3), rtol=0.02)


@pytest.mark.parametrize("shape", [(3, 5), (64, 64), (65, 131), (1, 1)])
def test_contrast_weights_of_any_size(shape):
  picture = Picture(samples.soft(np.random.default_rng(0), *shape))
  weights = carry.contrast_weights(picture, 16, floor=0.5)
  assert weights.shape == (16, 16)
  assert weights.min() >= 0.5
  assert weights.max() <= 1


def test_shaped_weakens_a_perturbation_by_the_weights():
  delta = (8 * (2 * (np.indices((32, 32)).sum(0) % 2) - 1)).astype(np.int8)
  delta = np.stack([delta, -delta, delta], axis=-1)
  half = carry.shaped(delta, np.full((32, 32), 0.5, np.float32))
  np.testing.assert_array_equal(half, delta // 2)


def test_what_a_network_sees_of_a_carried_perturbation_resembles_it():
  rng = np.random.default_rng(0)
  original = np.full((640, 480, 3), 128, np.uint8)
  delta = samples.delta(rng, 32)
  changed, _ = carry.apply(original, delta)
  seen = np.asarray(Image.fromarray(changed).resize((32, 32), Image.Resampling.BICUBIC))
  assert np.corrcoef((seen.astype(int) - 128).ravel(), delta.ravel())[0, 1] > 0.9
