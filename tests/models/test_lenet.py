"""Tests LeNet-5 against NumPy in float64 and against the sizes of the paper."""

import jax
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from miue_jax import models
from miue_jax.settings.config import Model


@pytest.mark.parametrize(
  ("width", "sizes"), [(6, (6, 16, 120, 84)), (18, (18, 48, 360, 252))], ids=["classic", "x3"]
)
def test_sizes_of_the_layers(width, sizes):
  module = models.build(Model(name="lenet5", width=width), 10, (32, 32, 3))
  params = jax.eval_shape(lambda key: models.init(module, key, (32, 32, 3)), jax.random.key(0))
  kernels = {name: layer["kernel"].shape for name, layer in params["params"].items()}
  conv1, conv2, dense1, dense2 = sizes
  assert kernels == {
    "Conv_0": (5, 5, 3, conv1),
    "Conv_1": (5, 5, conv1, conv2),
    "Dense_0": (5 * 5 * conv2, dense1),
    "Dense_1": (dense1, dense2),
    "classifier": (dense2, 10),
  }


@pytest.mark.slow
def test_features_and_logits_match_numpy():
  rng = np.random.default_rng(0)
  module = models.build(Model(name="lenet5", width=6, normalise="none"), 5, (20, 17, 3))
  variables = models.init(module, jax.random.key(0), (20, 17, 3))
  variables = jax.tree.map(
    lambda leaf: np.float32(leaf + rng.normal(0, 0.05, leaf.shape)), variables
  )
  images = rng.random((3, 20, 17, 3), np.float32)

  params = jax.tree.map(lambda leaf: np.array(leaf, np.float64), variables["params"])
  x = images
  for layer in ("Conv_0", "Conv_1"):
    windows = sliding_window_view(x, (5, 5), axis=(1, 2))
    x = np.einsum("bijcuv,uvcd->bijd", windows, params[layer]["kernel"]) + params[layer]["bias"]
    x = sliding_window_view(np.maximum(x, 0), (2, 2), axis=(1, 2))[:, ::2, ::2].max(axis=(-2, -1))
  x = x.reshape(3, -1)
  for layer in ("Dense_0", "Dense_1"):
    x = np.maximum(x @ params[layer]["kernel"] + params[layer]["bias"], 0)

  features, logits = jax.jit(module.apply)(variables, images)
  np.testing.assert_allclose(features, x, rtol=1e-4, atol=1e-5)
  head = params["classifier"]
  np.testing.assert_allclose(logits, x @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-5)
