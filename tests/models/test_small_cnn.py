"""Tests the small network against NumPy in float64."""

import jax
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from miue_jax import models
from miue_jax.settings.config import Model


def test_features_and_logits_match_numpy():
  rng = np.random.default_rng(0)
  module = models.build(Model(name="small_cnn", width=4, normalise="none"), 5, (9, 8, 3))
  variables = models.init(module, jax.random.key(0), (9, 8, 3))
  variables = jax.tree.map(
    lambda leaf: np.float32(leaf + rng.uniform(0, 0.3, leaf.shape)), variables
  )
  images = rng.random((3, 9, 8, 3), np.float32)

  exact = jax.tree.map(lambda leaf: np.array(leaf, np.float64), variables)
  params, stats = exact["params"], exact["batch_stats"]
  x = images
  for layer in range(4):
    windows = sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), axis=(1, 2))
    x = np.einsum("bijcuv,uvcd->bijd", windows, params[f"Conv_{layer}"]["kernel"])
    norm, running = params[f"BatchNorm_{layer}"], stats[f"BatchNorm_{layer}"]
    x = (x - running["mean"]) / np.sqrt(running["var"] + 1e-5) * norm["scale"] + norm["bias"]
    x = np.maximum(x, 0)
    if layer < 2:
      x = sliding_window_view(x, (2, 2), axis=(1, 2))[:, ::2, ::2].max(axis=(-2, -1))
  assert x.shape == (3, 2, 2, 16)
  expected = x.mean((1, 2))

  features, logits = jax.jit(module.apply)(variables, images)
  np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
  head = params["classifier"]
  np.testing.assert_allclose(logits, expected @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-5)
