"""Tests adversaries against closed forms of linear losses."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.transforms import pgd, uniform_noise

RADIUS = 4 / 255
SHAPE = (40, 5, 5, 3)
attack = functools.partial(pgd, radius=RADIUS, step_size=0.8 / 255, steps=10)
moves = pytest.mark.parametrize("moves", ["image", "perturbation"])


def images_and_keys():
  rng = np.random.default_rng(0)
  images = rng.uniform(-0.2, 1.2, SHAPE).clip(0, 1).astype(np.float32)
  return images, jax.random.split(jax.random.key(1), len(images))


def linear_loss(seed=1):
  slope = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
  return slope, lambda x: jnp.sum(slope * x, axis=(1, 2, 3))


@pytest.mark.slow
@moves
def test_sign_steps_reach_the_worst_corner_for_a_linear_loss(moves):
  images, keys = images_and_keys()
  slope, loss = linear_loss()
  found = attack(keys, images, loss, moves=moves)
  # Ten steps of 0.8 levels cross the whole ball of radius 4 from any start.
  expected = (images + RADIUS * np.sign(slope)).clip(0, 1)
  np.testing.assert_allclose(found, expected, atol=1e-6)


@moves
def test_number_and_size_of_steps(moves):
  images, keys = np.full(SHAPE, 0.5, np.float32), images_and_keys()[1]
  start, two = (
    attack(keys, images, lambda x: jnp.sum(x, (1, 2, 3)), steps=n, step_size=1e-4, moves=moves)
    for n in (0, 2)
  )
  expected = np.minimum(start + 2e-4, np.float32(0.5 + RADIUS))
  np.testing.assert_allclose(two, expected, atol=1e-6)


@moves
def test_ten_steps_of_two_levels_do_not_reach_every_corner_of_a_large_ball(moves):
  images, keys = np.full(SHAPE, 0.5, np.float32), images_and_keys()[1]
  slope, loss = linear_loss()
  attacked = attack(keys, images, loss, radius=40 / 255, step_size=2 / 255, moves=moves)
  change = 255 * (np.asarray(attacked) - images) * np.sign(slope)
  # The start is U(-40, 40) and the steps add 20 levels, but never beyond 40.
  assert change.min() > -20
  assert np.mean(change > 40 - 1e-3) == pytest.approx(0.25, abs=0.03)
  assert change.max() < 40 + 1e-3


def test_images_and_perturbations_move_alike_up_to_rounding():
  images, keys = images_and_keys()
  _, loss = linear_loss()
  one, other = (attack(keys, images, loss, moves=kind) for kind in ("image", "perturbation"))
  np.testing.assert_allclose(one, other, atol=1e-6)


@moves
def test_the_loop_of_an_accelerator_gives_the_same(monkeypatch, moves):
  images, keys = images_and_keys()
  _, loss = linear_loss()
  large = functools.partial(attack, keys, images, loss, radius=30 / 255, moves=moves)
  unrolled = large()
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  np.testing.assert_allclose(large(), unrolled, atol=1e-6)


@pytest.mark.parametrize(
  "act",
  [
    functools.partial(uniform_noise, radius=RADIUS),
    functools.partial(attack, steps=0),
    functools.partial(attack, steps=0, moves="perturbation"),
  ],
  ids=["noise", "start", "start of a perturbation"],
)
def test_noise_is_uniform_in_the_ball_and_independent_between_examples(act):
  images, keys = images_and_keys()
  gray = np.full(SHAPE, 0.5, np.float32)
  noise = 255 * (np.asarray(act(keys, gray, None)) - gray).astype(np.float64)
  assert np.abs(noise).max() <= 4 + 1e-4
  # 3,000 draws with mean 0 and variance 16 / 3.
  assert abs(noise.mean()) < 4 * np.sqrt(16 / 3 / noise.size)
  assert noise.var() == pytest.approx(16 / 3, rel=0.1)
  assert len(np.unique(noise[:, 0, 0, 0])) == len(noise)
  moved = np.asarray(act(keys, images, None))
  assert moved.min() >= 0
  assert moved.max() <= 1


@pytest.mark.parametrize("act", [attack, functools.partial(uniform_noise, radius=RADIUS)])
def test_shapes_are_asserted(act):
  images, keys = images_and_keys()
  with pytest.raises(AssertionError):
    act(keys, images[0], None)
  with pytest.raises(AssertionError):
    act(keys[:3], images, None)


def test_an_attack_is_traced_once_for_one_shape():
  images, keys = images_and_keys()
  _, loss = linear_loss()
  traced = jax.jit(chex.assert_max_traces(lambda k, x: attack(k, x, loss), n=1))
  chex.assert_trees_all_close(traced(keys, images), traced(keys, images))
