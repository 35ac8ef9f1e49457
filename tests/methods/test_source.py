"""Tests the images that the source model learns from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax import budget
from miue_jax.methods import AlternatingSettings, source
from miue_jax.methods.delta import Delta
from miue_jax.settings.config import Sgd
from miue_jax.train import lanes

CLASSES = 3


@pytest.mark.parametrize("class_wise", [False, True])
def test_images_that_are_not_chosen_stay_clean_for_the_source_model(class_wise):
  settings = AlternatingSettings(class_wise=class_wise, source=Sgd(augment="none"))
  inputs = source.inputs(settings)
  rng = np.random.default_rng(0)
  # Some pixels are black or white, where delta fits in one direction only.
  images = rng.integers(-40, 296, (6, 6, 6, 1)).clip(0, 255).astype(np.uint8)
  labels = jnp.arange(6) % CLASSES
  perturbed = np.array([True, False, True, True, False, False])
  shape = (CLASSES if class_wise else 6, 6 * 6 * 1)
  parts = budget.resolution(settings.epsilon)
  stored = budget.pack(jnp.full(shape, 5 / 255), parts)
  delta = Delta(stored, parts, class_wise, image=(6, 6, 1))
  table = lanes.Table(jnp.array(images), labels, jnp.arange(6), (6, 6, 1))
  keys = jax.random.split(jax.random.key(0), 6)
  seen = 255 * inputs(table, (delta, jnp.array(perturbed)), jnp.arange(6), keys)
  expected = images + 5.0 * perturbed[:, None, None, None]
  # A pattern of a class may leave the range of pixels, so that the sum is clipped.
  expected = expected.clip(0, 255) if class_wise else expected
  np.testing.assert_allclose(seen, expected, atol=1e-3)
