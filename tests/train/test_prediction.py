"""Tests inference in batches over the mesh."""

import chex
import jax
import numpy as np
import optax
import pytest
from tiny import Tiny

from miue_jax.machine import sharding
from miue_jax.settings.config import Model
from miue_jax.train import prediction, step


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4, 7, 8, 9])
def test_predictor_is_the_module_for_any_number_of_images(use_devices, monkeypatch, count):
  use_devices(2)
  monkeypatch.setattr(prediction, "EVALUATION_BATCH", 4)
  module = Tiny(Model(), 3)
  state = sharding.replicate(step.fresh_state(module, optax.sgd(0.1), jax.random.key(0), (6, 6, 1)))
  # The running statistics differ from the initial ones.
  state = state.replace(batch_stats=jax.tree.map(lambda x: x + 0.5, state.batch_stats))
  images = np.random.default_rng(2).integers(0, 256, (count, 6, 6, 1), np.uint8)
  found = prediction.predict(module, state, images)
  expected = module.apply(state.variables, images / np.float32(255))
  chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)
