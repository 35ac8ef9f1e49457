"""Tests UEraser: its draws, its choice and its epochs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax import defences
from miue_jax.defences import ueraser
from miue_jax.machine import prng
from miue_jax.transforms import Targets

pytestmark = pytest.mark.usefixtures("quick_compiler")


def keys(count, seed=0):
  return prng.example_keys(jax.random.key(seed), jnp.arange(count))


@pytest.mark.long
def test_the_augmentation_with_the_largest_loss_of_five_is_learned():
  images = np.random.default_rng(0).random((6, 8, 8, 3), np.float32)
  target = jnp.float32(0.3)

  def loss(images):
    return jnp.abs(jnp.mean(images, axis=(1, 2, 3)) - target)

  chosen = jax.jit(lambda k, x: ueraser.hardest(k, x, loss))(keys(6), images)
  draw = jax.jit(ueraser.transformed)
  drawn = [
    np.asarray(draw(jax.vmap(lambda key, n=n: jax.random.fold_in(key, n))(keys(6)), images))
    for n in range(5)
  ]
  losses = np.stack([loss(each) for each in drawn])
  assert len(np.unique(losses)) > 6  # the draws differ
  for i, best in enumerate(losses.argmax(axis=0)):
    np.testing.assert_allclose(chosen[i], drawn[best][i], atol=1e-5)


def test_the_first_quarter_of_the_epochs_has_an_adversary():
  first = defences.build("ueraser").hooks
  acting = [first.at(epoch, 200) for epoch in range(200)]
  assert all(hook.adversary and not hook.augment for hook in acting[:50])
  assert all(hook.augment and not hook.adversary for hook in acting[50:])


def test_plasma_is_diamond_square():
  """Derives every point by loops over its neighbours, given the noise."""
  key = jax.random.key(4)
  cloud = np.asarray(ueraser.plasma(key, (9, 9, 3)))[..., 0]
  roughness_key, key = jax.random.split(key)
  roughness = scale = float(jax.random.uniform(roughness_key, minval=0.3, maxval=0.7))
  grid = np.asarray(ueraser._noise(key, 0, (3, 3)), float)
  for level in (1, 2):
    size = 2 * len(grid) - 1
    noise = np.asarray(ueraser._noise(key, level, (size, size)), float)
    points = np.full((size, size), np.nan)
    points[::2, ::2] = grid
    diagonal, straight = [(-1, -1), (-1, 1), (1, -1), (1, 1)], [(-1, 0), (1, 0), (0, -1), (0, 1)]
    for parity, offsets in (((1, 1), diagonal), ((0, 1), straight), ((1, 0), straight)):
      for y in range(parity[0], size, 2):
        for x in range(parity[1], size, 2):
          around = [(y + i, x + j) for i, j in offsets]
          near = [points[p] for p in around if min(p) >= 0 and max(p) < size]
          points[y, x] = np.mean(near) + scale * noise[y, x]
    grid, scale = points, scale * roughness
  expected = (grid - grid.min()) / (grid.max() - grid.min())
  np.testing.assert_allclose(cloud, expected, atol=1e-5)


@pytest.mark.slow
def test_plasma_covers_any_size_and_range():
  for shape in ((5, 5, 1), (32, 20, 3)):
    cloud = np.asarray(ueraser.plasma(jax.random.key(1), shape))
    assert cloud.shape == (*shape[:2], 1)
    assert (cloud.min(), cloud.max()) == pytest.approx((0, 1), abs=1e-6)
  # A cloud, not noise: neighbouring pixels are similar.
  assert np.abs(np.diff(cloud, axis=0)).mean() < 0.6 * np.abs(cloud - cloud.mean()).mean()


def test_each_toning_acts_on_half_of_the_images():
  count = 400
  flat = np.broadcast_to(np.array([0.2, 0.4, 0.6], np.float32), (count, 8, 8, 3))
  toned = np.asarray(jax.jit(jax.vmap(ueraser._toned))(keys(count), flat))
  untouched = (toned == flat).all(axis=(1, 2, 3))
  even = np.ptp(toned, axis=(1, 2)).max(axis=1) == 0
  # No plasma: 1/4 of the images. No plasma and unchanged channels: 1/8, and 1/8 times 1/6.
  assert abs(even.mean() - 1 / 4) < 0.08
  assert abs(untouched.mean() - (1 / 8 + 1 / 48)) < 0.07
  assert all(sorted(image[0, 0].round(5)) == [0.2, 0.4, 0.6] for image in toned[even].astype(float))


@pytest.mark.long
def test_results_do_not_depend_on_the_number_of_devices(batch, augmented):
  def adversary(keys, images, targets):
    def loss(images):
      return Targets.hard(targets.labels[:, 0]).loss(images[:, 0, :4, 0])

    return ueraser.hardest(keys, images, loss), targets

  images, _ = augmented(adversary, *batch)
  for devices in (2, 4):
    np.testing.assert_allclose(augmented(adversary, *batch, devices=devices)[0], images, atol=1e-5)
