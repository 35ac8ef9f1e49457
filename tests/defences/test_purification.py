"""Tests purifiers against closed forms of diffusion and rate, and on a tiny poison."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy

from miue_jax import defences
from miue_jax.data.dataset import Split
from miue_jax.data.images import LazyImages
from miue_jax.defences import fitting, purification
from miue_jax.machine import prng, progress
from miue_jax.settings.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compiler")

TINY = purification.Training(width=8, steps=300, batch_size=16, learning_rate=4e-3)


def smooth(count, seed, shape=(7, 9, 1)):
  """Returns images that differ only in brightness and slope."""
  rng = np.random.default_rng(seed)
  ramp = np.linspace(-1, 1, shape[1])[None, None, :, None]
  bright, slope = rng.uniform(80, 170, (count, 1, 1, 1)), rng.uniform(-60, 60, (count, 1, 1, 1))
  images = np.broadcast_to(bright + slope * ramp, (count, *shape))
  return Split(np.rint(images).astype(np.uint8), np.zeros(count, np.int32))


def poisoned(split):
  """Adds a checkerboard of 8 levels."""
  board = 16 * (np.indices(split.images.shape[1:3]).sum(axis=0) % 2) - 8
  images = np.clip(split.images[:] + board[None, :, :, None], 0, 255).astype(np.uint8)
  return Split(images, split.labels)


def error(images, expected):
  return np.sqrt(np.mean((images.astype(float) - expected) ** 2))


@pytest.mark.parametrize(
  "flops",
  [
    lambda training, count: purification.variational(training).flops((8, 8, 3), count),
    lambda training, count: purification.restored_flops((8, 8, 3), count, training),
    lambda training, count: purification.diffusion(1, training).flops((8, 8, 3), count),
  ],
)
def test_flops_are_those_of_training_and_of_predictions(flops):
  once = flops(TINY, 0)
  # One of the convolutions, forward and backward.
  assert once > TINY.steps * TINY.batch_size * 3 * 2 * 9 * 4 * 4 * (2 * TINY.width) ** 2
  assert flops(dataclasses.replace(TINY, steps=2 * TINY.steps), 0) == pytest.approx(2 * once)
  assert flops(TINY, 3 * TINY.steps * TINY.batch_size) == pytest.approx(2 * once)


@pytest.mark.long
@pytest.mark.parametrize(
  "make", [purification.variational, functools.partial(purification.diffusion, 60)]
)
def test_a_poison_is_purified(make, use_devices):
  use_devices(2)
  clean = smooth(40, 1)
  train = poisoned(clean)
  defence = make(TINY)
  assert defence.needs_clean
  purified = defence.preprocess(train, smooth(200, 0), 0)
  assert purified.images.dtype == np.uint8
  assert purified.labels is train.labels
  assert error(train.images[:], clean.images) == pytest.approx(8, abs=0.2)
  assert error(purified.images[:], clean.images) < 7
  # Little of the checkerboard is left.
  board = (np.indices((7, 9)).sum(axis=0) % 2 - 0.5)[None, :, :, None]
  left = np.mean((purified.images[:] - clean.images[:].astype(float)) * 2 * board)
  assert abs(left) < 2


def test_steps_of_two_cpu_devices_do_not_overlap(use_devices, monkeypatch):
  use_devices(2)
  ready = []

  def count(verb, counts, total):
    ready.extend(all(x.is_ready() for x in jax.live_arrays()) for _ in counts)

  monkeypatch.setattr(progress, "count", count)
  training = purification.Training(width=8, steps=5, batch_size=64)

  def loss(params, keys, images):
    del keys
    products = images.reshape(len(images), -1) @ params
    return jnp.mean(jnp.linalg.svd(products @ products.T)[1])

  fitting.fit(loss, jnp.ones((12 * 12, 64)), smooth(64, 0, (12, 12, 1)), training, 0)
  assert ready == [True] * 5


@pytest.mark.long
def test_a_network_learns_from_pairs_to_undo_a_poison(use_devices):
  use_devices(1)
  clean, known = smooth(40, 1), smooth(200, 0)
  images, brief = poisoned(clean).images[:], dataclasses.replace(TINY, steps=100)
  found = purification.restored(images, poisoned(known).images[:], known.images[:], 0, brief)
  assert found.dtype == np.uint8
  assert error(images, clean.images) == pytest.approx(8, abs=0.2)
  assert error(found, clean.images) < 3


def test_noise_levels_are_those_of_ddpm():
  share = purification.signal_share()
  assert share[0] == 1
  assert share[1] == pytest.approx(1 - 1e-4)
  assert share[1000] == pytest.approx(np.exp(np.log1p(-np.linspace(1e-4, 0.02, 1000)).sum()))
  assert len(share) == 1001


@pytest.mark.slow
@pytest.mark.parametrize("level", [1, 7, 100])
def test_a_perfect_model_of_one_image_returns_that_image(level, use_devices):
  use_devices(1)
  image = np.random.default_rng(0).uniform(-1, 1, (1, 4, 4, 1)).astype(np.float32)
  share = purification.signal_share()

  def noise_of(params, noisy, levels):
    own = jnp.asarray(share, jnp.float32)[levels][:, None, None, None]
    return (noisy - jnp.sqrt(own) * image) / jnp.sqrt(1 - own)

  keys = prng.example_keys(jax.random.key(0), jnp.arange(5))
  given = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (5, 4, 4, 1)), jnp.float32)
  found = purification.sampler(noise_of, level)(None, keys, given)
  np.testing.assert_allclose(found, np.broadcast_to(image, found.shape), atol=2e-3)


def test_a_perfect_model_of_gaussian_pixels_samples_their_posterior(use_devices, monkeypatch):
  """Pixels N(0, v) that are noised and denoised are N(0, v), correlated with the original."""
  use_devices(1)
  monkeypatch.setattr(purification, "EVALUATIONS", 100)  # fewer evaluations lose variance
  variance, level, count = 0.01, 100, 4000
  share = purification.signal_share()

  def noise_of(params, noisy, levels):
    own = jnp.asarray(share, jnp.float32)[levels][:, None, None, None]
    return noisy * jnp.sqrt(1 - own) / (own * variance + 1 - own)

  rng = np.random.default_rng(0)
  given = (0.1 * rng.standard_normal((count, 2, 2, 1))).astype(np.float32)
  keys = prng.example_keys(jax.random.key(0), jnp.arange(count))
  found = np.asarray(purification.sampler(noise_of, level)(None, keys, given))
  assert found.var() == pytest.approx(variance, rel=0.08)
  # In posterior sampling the correlation is the share of the signal at the highest level.
  own = purification.signal_share()[level]
  expected = own * variance / (own * variance + 1 - own)
  assert np.corrcoef(found.ravel(), given.ravel())[0, 1] == pytest.approx(expected, abs=0.05)


def test_divergence_is_that_of_gaussians():
  rng = np.random.default_rng(0)
  mean, log_variance = rng.normal(size=(3, 1)), rng.normal(size=(3, 1))
  for m, lv, found in zip(
    mean.ravel(), log_variance.ravel(), purification.divergence(mean, log_variance), strict=True
  ):
    normal = scipy.stats.norm(m, np.exp(lv / 2))
    expected = scipy.integrate.quad(
      lambda x, n=normal: n.pdf(x) * (n.logpdf(x) - scipy.stats.norm.logpdf(x)), -15, 15
    )[0]
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.long
def test_results_do_not_depend_on_the_number_of_devices(use_devices):
  short = purification.Training(width=8, steps=5, batch_size=8)
  train = smooth(11, 0)
  for make in (purification.variational, functools.partial(purification.diffusion, 5)):
    found = {}
    for devices in (1, 2, 4):
      use_devices(devices)
      found[devices] = make(short).preprocess(train, train, 0).images[:].astype(int)
    for devices in (2, 4):
      assert np.abs(found[devices] - found[1]).max() <= 1


def test_images_that_are_not_in_memory_are_refused(use_devices):
  use_devices(1)
  images = smooth(4, 0).images
  lazy = Split(LazyImages(lambda ids: images[ids], len(images), "lazy"), np.zeros(4, np.int32))
  defence = purification.diffusion(1, purification.Training(width=8, steps=1, batch_size=4))
  with pytest.raises(UserError, match=r"Defence 'avatar1' looks at all .* raise data\.memory"):
    defence.preprocess(lazy, smooth(4, 0), 0)


def test_early_stopping_changes_nothing_but_the_row():
  defence = defences.build("earlystop")
  assert defence.stops_early
  assert defence.needs_clean
  assert defence.preprocess is None
  assert defence.hooks == defences.build("none").hooks
