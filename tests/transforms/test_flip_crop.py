"""Tests flips and crops against padding and slicing in NumPy, and gradients by the transpose."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.machine import prng
from miue_jax.settings.errors import UserError
from miue_jax.transforms.flip_crop import KINDS, PAD, augment

COUNT = 40
SHAPE = (6, 7, 2)
SHIFTS = range(2 * PAD + 1)
MOVES = {
  "none": [(PAD, PAD, False)],
  "flip": [(PAD, PAD, flip) for flip in (False, True)],
  "crop": [(top, left, False) for top in SHIFTS for left in SHIFTS],
  "crop_flip": [(top, left, flip) for top in SHIFTS for left in SHIFTS for flip in (False, True)],
}

apply = jax.jit(augment, static_argnums=0)


def moved(image, top, left, flip):
  """Returns a window of the zero-padded image, mirrored if `flip`."""
  padded = np.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)))
  window = padded[top : top + SHAPE[0], left : left + SHAPE[1]]
  return window[:, ::-1] if flip else window


def moved_back(gradient, top, left, flip):
  """Applies the transpose of `moved`: every pixel returns to its source."""
  padded = np.zeros((SHAPE[0] + 2 * PAD, SHAPE[1] + 2 * PAD, SHAPE[2]), np.float32)
  padded[top : top + SHAPE[0], left : left + SHAPE[1]] = gradient[:, ::-1] if flip else gradient
  return padded[PAD:-PAD, PAD:-PAD]


def find_move(kind, image, result):
  """Returns the only (top, left, flip) that gives `result`."""
  found = [move for move in MOVES[kind] if np.array_equal(moved(image, *move), result)]
  assert len(found) == 1
  return found[0]


@pytest.fixture(scope="module")
def batch():
  """Returns keys and images of one shape, so that each kind is compiled once."""
  images = np.random.default_rng(0).random((COUNT, *SHAPE), np.float32)
  return prng.example_keys(jax.random.key(0), jnp.arange(COUNT)), images


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_result_is_exactly_a_window_of_the_padded_image(kind, batch):
  keys, images = batch
  for image, result in zip(images, np.asarray(apply(kind, keys, images)), strict=True):
    find_move(kind, image, result)


def test_none_is_the_identity(batch):
  keys, images = batch
  assert augment("none", keys, images) is images


def test_all_windows_and_flips_are_equally_likely(batch):
  count = 8100
  image = batch[1][0]
  keys = prng.example_keys(jax.random.key(1), jnp.arange(count))
  results = np.asarray(apply("crop_flip", keys, np.broadcast_to(image, (count, *SHAPE))))
  results = results.reshape(count, -1)
  hits = [(results == moved(image, *move).ravel()).all(1).sum() for move in MOVES["crop_flip"]]
  assert sum(hits) == count
  # Chi-squared with 161 degrees of freedom exceeds 221 once in a thousand.
  expected = count / len(hits)
  assert ((np.array(hits) - expected) ** 2 / expected).sum() < 221


def test_flipping_twice_is_the_identity(batch):
  keys, images = batch
  once = apply("flip", keys, images)
  assert (np.asarray(once) != images).any()
  np.testing.assert_array_equal(apply("flip", keys, once), images)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_depends_only_on_its_key_and_image(kind, batch):
  keys, images = batch
  everything = np.asarray(apply(kind, keys, images))
  some = np.arange(COUNT) ** 2 % COUNT
  np.testing.assert_array_equal(apply(kind, keys[some], images[some]), everything[some])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_the_transpose(kind, batch):
  keys, images = batch
  cotangent = np.random.default_rng(1).standard_normal(images.shape).astype(np.float32)
  results, pull = jax.vjp(functools.partial(apply, kind, keys), images)
  (gradient,) = pull(cotangent)
  for image, result, given, back in zip(
    images, np.asarray(results), cotangent, np.asarray(gradient), strict=True
  ):
    np.testing.assert_array_equal(back, moved_back(given, *find_move(kind, image, result)))


def test_an_unknown_kind_is_an_error(batch):
  with pytest.raises(UserError, match="Unknown augmentation 'flop'; choose one of none, flip"):
    augment("flop", *batch)


def test_shapes_are_asserted(batch):
  keys, images = batch
  for wrong in ((keys, images[0]), (keys[:3], images)):
    with pytest.raises(AssertionError):
      augment("flip", *wrong)
