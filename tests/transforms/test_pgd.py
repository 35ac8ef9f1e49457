"""Adversaries against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.settings.config import Method
from miue_jax.transforms import pgd

METHOD = Method(inner_epsilon=4 / 255, inner_steps=10, inner_step_size=0.8 / 255)
SHAPE = (40, 5, 5, 3)


def images_and_keys():
  rng = np.random.default_rng(0)
  images = rng.uniform(-0.2, 1.2, SHAPE).clip(0, 1).astype(np.float32)
  return images, jax.random.split(jax.random.key(1), len(images))


def test_sign_steps_reach_the_worst_corner_of_a_linear_loss():
  images, keys = images_and_keys()
  slope = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
  found = pgd.pgd(METHOD)(keys, images, lambda x: jnp.sum(slope * x, axis=(1, 2, 3)))
  # Ten steps of 0.8 cross the whole ball of radius 4, wherever they start.
  expected = (images + 4 / 255 * np.sign(slope)).clip(0, 1)
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_sign_steps_have_their_number_and_size():
  images, keys = np.full(SHAPE, 0.5, np.float32), images_and_keys()[1]
  rising = lambda x: jnp.sum(x, axis=(1, 2, 3))  # noqa: E731
  none, two = (
    pgd.pgd(Method(inner_steps=steps, inner_step_size=1e-4))(keys, images, rising)
    for steps in (0, 2)
  )
  expected = np.minimum(none + 2e-4, np.float32(0.5 + 4 / 255))
  np.testing.assert_allclose(two, expected, atol=1e-6)


@pytest.mark.parametrize(
  "act", [pgd.uniform(METHOD), pgd.pgd(Method(inner_steps=0))], ids=["noise", "start"]
)
def test_noise_is_uniform_in_the_ball_and_of_each_examples_own(act):
  images, keys = images_and_keys()
  gray = np.full(SHAPE, 0.5, np.float32)
  noise = 255 * (np.asarray(act(keys, gray, None)) - gray).astype(np.float64)
  assert np.abs(noise).max() <= 4 + 1e-4
  # Mean 0, variance 16 / 3, of 3,000 draws.
  assert abs(noise.mean()) < 4 * np.sqrt(16 / 3 / noise.size)
  assert noise.var() == pytest.approx(16 / 3, rel=0.1)
  assert len(np.unique(noise[:, 0, 0, 0])) == len(noise)
  moved = np.asarray(act(keys, images, None))
  assert moved.min() >= 0
  assert moved.max() <= 1
