"""Squeezes inside a step against Pillow, and their gradient against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.defences import squeezing
from miue_jax.transforms import recompression


def smooth(count, height, width, channels):
  """Images as photographs are, uint8: neighbouring pixels alike, in colour as well."""
  rng = np.random.default_rng(0)
  coarse = rng.integers(40, 216, (count, -(-height // 8), -(-width // 8), channels))
  fine = np.asarray(
    jax.image.resize(coarse.astype(float), (count, height, width, channels), "cubic")
  )
  return np.clip(fine + rng.normal(0, 6, (count, height, width, 1)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(32, 32, 3), (27, 19, 3), (24, 16, 1), (13, 21, 1)])
@pytest.mark.parametrize("quality", [10, 50, 90])
def test_jpeg_is_near_to_what_the_codec_leaves(shape, quality):
  images = smooth(8, *shape)
  stored = squeezing.jpeg(images, quality).astype(float)
  found = 255 * np.asarray(recompression.jpeg(jnp.array(images, jnp.float32) / 255, quality))
  assert found.shape == images.shape
  lost = np.abs(stored - images).mean()
  # The cube keeps up to an eighth of a quantisation step that the codec rounds away, and
  # the codec rounds pixels and luma to integers on the way.
  assert np.abs(found - stored).mean() < 0.3 * lost + 0.6


def test_grayscale_is_pillows():
  images = smooth(4, 8, 8, 3)
  found = 255 * np.asarray(recompression.grayscale(jnp.array(images, jnp.float32) / 255))
  np.testing.assert_allclose(found, squeezing.grayscale(images), atol=0.51)
  gray = jnp.array(images[..., :1], jnp.float32)
  np.testing.assert_array_equal(recompression.grayscale(gray), gray)


@pytest.mark.parametrize("shape", [(10, 16, 3), (8, 8, 1)])
def test_the_gradient_of_jpeg_is_that_of_differences(shape):
  rng = np.random.default_rng(1)
  with jax.enable_x64():
    images = jnp.array(rng.uniform(0.3, 0.7, (1, *shape)))
    target = jnp.array(rng.uniform(0, 1, (1, *shape)))

    def loss(x):
      return jnp.sum(target * recompression.jpeg(x, 30))

    gradient = np.asarray(jax.grad(loss)(images))
    assert np.abs(gradient).max() > 0.1
    for direction in rng.choice([-1.0, 1.0], (5, 1, *shape)):
      step = 1e-7 * direction
      slope = (loss(images + step) - loss(images - step)) / 2e-7
      assert np.sum(gradient * direction) == pytest.approx(float(slope), rel=1e-4)


def test_every_image_is_squeezed_by_its_own_draw():
  images = jnp.array(smooth(300, 8, 8, 3), jnp.float32) / 255
  keys = jax.random.split(jax.random.key(0), 300)
  squeeze = recompression.random_squeeze(("none", "grayscale", "jpeg10"))
  found = squeeze(keys, images)
  candidates = np.stack([images, recompression.grayscale(images), recompression.jpeg(images, 10)])
  which = np.array(np.all(candidates == found[None], axis=(2, 3, 4)))
  assert (which.sum(axis=0) == 1).all()
  assert (np.abs(which.sum(axis=1) - 100) < 35).all()
  np.testing.assert_array_equal(squeeze(keys[50:60], images[50:60]), found[50:60])
