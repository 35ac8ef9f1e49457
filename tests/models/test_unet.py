"""Tests the shapes, range, parameters and receptive field of the U-Net."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax import models
from miue_jax.models import unet

pytestmark = pytest.mark.usefixtures("quick_compiler")


@pytest.mark.long
@pytest.mark.parametrize("shape", [(8, 8, 3), (13, 10, 1)])
def test_outputs_have_the_shape_of_the_images_and_are_within_one(shape):
  module = unet.UNet(width=2)
  variables = models.init(module, jax.random.key(0), shape)
  images = np.random.default_rng(0).uniform(size=(3, *shape)).astype(np.float32)
  found = module.apply(variables, images)
  assert found.shape == images.shape
  assert found.dtype == jnp.float32
  assert 0 < np.abs(found).max() < 1


@pytest.mark.slow
def test_number_of_parameters():
  variables = models.init(unet.UNet(width=4), jax.random.key(0), (8, 8, 3))
  down = [(3, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16), (16, 32), (32, 32)]
  up = [(32 + 16, 16), (16, 16), (16 + 8, 8), (8, 8), (8 + 4, 4), (4, 4)]
  expected = sum(9 * i * o + 2 * o for i, o in down + up) + 4 * 3 + 2 * 3
  assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == expected


@pytest.mark.long
def test_an_output_depends_on_near_and_far_pixels():
  module, shape = unet.UNet(width=8), (16, 16, 1)  # with fewer units ReLU may leave none
  variables = models.init(module, jax.random.key(1), shape)
  image = np.random.default_rng(1).uniform(size=(1, *shape)).astype(np.float32)
  by_pixel = jax.jacobian(lambda x: module.apply(variables, x)[0, 3, 3, 0])(image)[0, :, :, 0]
  assert by_pixel[3, 3] != 0
  assert by_pixel[14, 14] != 0  # through the lowest resolution
