"""Tests mixing, cutting, blur and noise against NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from miue_jax import transforms
from miue_jax.machine import prng
from miue_jax.transforms import Targets

NAMES = ("cutout", "cutmix", "mixup", "blur", "noise")


def many(count, side=8):
  keys = prng.example_keys(jax.random.key(3), jnp.arange(count))
  return keys, np.random.default_rng(1).random((count, side, side, 1), np.float32)


def unlabelled(augment, keys, images):
  images, targets = jax.jit(augment)(keys, images, Targets.hard(jnp.zeros(len(keys), jnp.int32)))
  assert targets.weights.shape == (len(keys), 1)
  return np.asarray(images)


def box(mask):
  """Returns (top, bottom, left, right) of a bool `[H, W]` that is one box."""
  rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
  assert mask.sum() == len(rows) * len(columns)
  assert (np.diff(rows) == 1).all()
  assert (np.diff(columns) == 1).all()
  return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def test_cutout_is_one_black_box_of_half_the_side_around_a_uniform_pixel():
  keys, images = many(2000)
  images += 1
  cut = unlabelled(transforms.cutout, keys, images)
  seen = np.zeros((8, 8))
  for before, after in zip(images, cut, strict=True):
    hole = (after == 0)[..., 0]
    top, bottom, left, right = box(hole)
    np.testing.assert_array_equal(after[~hole], before[~hole])
    # Half the side, unless the border cuts the box off.
    for low, high in ((top, bottom), (left, right)):
      assert high - low == 4 or (low == 0 and high < 4) or (high == 8 and low > 4)
    # The centre of the box, two pixels below the top or above the bottom.
    seen[bottom - 2 if top == 0 else top + 2, right - 2 if left == 0 else left + 2] += 1
  # Uniform: chi-squared with 63 degrees of freedom exceeds 104 once in a thousand.
  assert stats.chisquare(seen.ravel()).statistic < 104


def test_the_hole_is_16_pixels_wide_at_32():
  keys, images = many(50, side=32)
  cut = unlabelled(transforms.cutout, keys, images + 1)
  assert max(box((image == 0)[..., 0])[1] - box((image == 0)[..., 0])[0] for image in cut) == 16


def test_cutmix_pastes_a_box_of_the_next_image_and_mixes_labels_by_area(batch, augmented):
  keys, images, labels = batch
  mixed, soft = augmented(transforms.cutmix, keys, images, labels)
  partners, partner_labels = np.roll(images, -1, axis=0), np.roll(labels, -1)
  for i, image in enumerate(mixed):
    pasted = (image == partners[i]).all(axis=-1)
    np.testing.assert_array_equal(image[~pasted], images[i][~pasted])
    if pasted.any():
      box(pasted)
    own = 1 - pasted.mean()
    np.testing.assert_allclose(
      soft[i], own * np.eye(4)[labels[i]] + (1 - own) * np.eye(4)[partner_labels[i]], atol=1e-6
    )


def test_mixup_is_the_weighted_mean_of_images_and_labels(batch, augmented):
  keys, images, labels = batch
  mixed, soft = augmented(transforms.mixup, keys, images, labels)
  own = np.array([float(jax.random.uniform(key)) for key in keys])
  weight = own.reshape(-1, 1, 1, 1)
  expected = weight * images + (1 - weight) * np.roll(images, -1, axis=0)
  np.testing.assert_allclose(mixed, expected, atol=1e-6)
  onehot = np.eye(4)[labels]
  expected = own[:, None] * onehot + (1 - own[:, None]) * np.roll(onehot, -1, axis=0)
  np.testing.assert_allclose(soft, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["cutmix", "mixup"])
def test_the_weight_of_the_first_image_is_uniform(name, augmented):
  keys, images = many(2000, side=16)
  # Neighbouring images have different labels, 0 and 1.
  labels = np.arange(2000, dtype=np.int32) % 2
  _, soft = augmented(getattr(transforms, name), keys, images, labels)
  own = soft[np.arange(2000), labels]
  if name == "mixup":
    assert stats.kstest(own, "uniform").pvalue > 1e-3
  else:
    # The border cuts boxes off. A box of relative side a keeps on average a - a^2 / 4 of each side,
    # so its expected share is E[(a - a^2/4)^2] with a^2 ~ U(0, 1).
    a = np.sqrt((np.arange(10_000) + 0.5) / 10_000)
    assert 1 - own.mean() == pytest.approx(((a - a**2 / 4) ** 2).mean(), abs=0.04)


def test_blur_is_scipys_filter_of_three_pixels():
  keys, images = many(200)
  blurred = unlabelled(transforms.blur, keys, images)
  sigmas = np.array([float(jax.random.uniform(k, minval=0.1, maxval=2.0)) for k in keys[:20]])
  for image, result, sigma in zip(images, blurred, sigmas, strict=False):
    weights = np.exp(-0.5 * (np.arange(-1, 2) / sigma) ** 2)
    expected = image.astype(float)
    for axis in (0, 1):
      expected = ndimage.correlate1d(expected, weights / weights.sum(), axis, mode="mirror")
    np.testing.assert_allclose(result, expected, atol=1e-6)
  # The widest filter is nearly a mean, the narrowest does nothing.
  change = np.abs(blurred - images).mean(axis=(1, 2, 3))
  assert change.max() > 0.2
  assert change.min() < 1e-3


def test_noise_is_gaussian_with_8_levels_and_independent_between_images():
  keys, images = many(200, side=16)
  drawn = unlabelled(transforms.noise, keys, np.full_like(images, 0.5)) - 0.5
  assert stats.kstest(drawn.ravel() / (8 / 255), "norm").pvalue > 1e-3
  assert np.abs(np.corrcoef(drawn.reshape(200, -1)) - np.eye(200)).max() < 0.35
  edge = unlabelled(transforms.noise, keys, np.zeros_like(images))
  assert edge.min() == 0
  assert np.mean(edge == 0) == pytest.approx(0.5, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_results_do_not_depend_on_the_number_of_devices(name, batch, augmented):
  augment = getattr(transforms, name)
  images, soft = augmented(augment, *batch)
  for devices in (2, 4, 8):
    others, other_soft = augmented(augment, *batch, devices=devices)
    np.testing.assert_allclose(others, images, atol=1e-6)
    np.testing.assert_allclose(other_soft, soft, atol=1e-6)
  assert np.abs(images - batch[1]).max() > 0.01


@pytest.mark.parametrize("name", ["cutmix", "mixup"])
def test_outside_shard_map_the_batch_is_the_global_one(name, batch, augmented):
  mix = getattr(transforms, name)
  keys, images, labels = batch
  expected, soft = augmented(mix, keys, images, labels)
  mixed, targets = jax.jit(mix)(keys, images, Targets.hard(labels))
  np.testing.assert_allclose(mixed, expected, atol=1e-6)
  onehot = np.eye(4)[np.asarray(targets.labels)]
  np.testing.assert_allclose((targets.weights[..., None] * onehot).sum(axis=1), soft, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_are_asserted(name, batch):
  keys, images, labels = batch
  with pytest.raises(AssertionError):
    getattr(transforms, name)(keys[:3], images, Targets.hard(labels))
