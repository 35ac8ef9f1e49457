"""Tests fully connected networks against NumPy in float64 and the sizes of the paper."""

import itertools

import jax
import numpy as np
import pytest

from miue_jax import models
from miue_jax.settings.config import Model


@pytest.mark.parametrize(
  ("name", "sizes"),
  [("linear", (3072, 10)), ("mlp2", (3072, 3072, 10)), ("mlp3", (3072, 3072, 1536, 10))],
)
def test_sizes_at_32_pixels_are_the_published_ones(name, sizes):
  module = models.build(Model(name=name), 10, (32, 32, 3))
  params = jax.eval_shape(lambda key: models.init(module, key, (32, 32, 3)), jax.random.key(0))
  layers = [f"Dense_{layer}" for layer in range(len(sizes) - 2)] + ["classifier"]
  kernels = [params["params"][layer]["kernel"].shape for layer in layers]
  assert kernels == list(itertools.pairwise(sizes))


@pytest.mark.parametrize(("name", "hidden"), [("linear", 0), ("mlp2", 1), ("mlp3", 2)])
def test_features_and_logits_match_numpy(name, hidden):
  rng = np.random.default_rng(0)
  module = models.build(Model(name=name), 5, (4, 3, 3))
  variables = models.init(module, jax.random.key(0), (4, 3, 3))
  variables = jax.tree.map(
    lambda leaf: np.float32(leaf + rng.normal(0, 0.1, leaf.shape)), variables
  )
  images = rng.random((3, 4, 3, 3), np.float32)

  params = jax.tree.map(lambda leaf: np.array(leaf, np.float64), variables["params"])
  x = (images - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
  x = x.reshape(3, -1)
  for layer in range(hidden):
    x = np.maximum(x @ params[f"Dense_{layer}"]["kernel"] + params[f"Dense_{layer}"]["bias"], 0)

  features, logits = jax.jit(module.apply)(variables, images)
  np.testing.assert_allclose(features, x, rtol=1e-4, atol=1e-5)
  head = params["classifier"]
  np.testing.assert_allclose(logits, x @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-5)
