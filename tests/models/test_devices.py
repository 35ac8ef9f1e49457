"""Tests that one, two and four devices give the same logits, gradients and statistics."""

import jax
import numpy as np
import optax
import pytest

from miue_jax import models
from miue_jax.models import densenet, mobilenet, resnet, small_cnn, vit, wide_resnet
from miue_jax.settings.config import Model

pytestmark = pytest.mark.usefixtures("quick_compiler")

SHAPE = (16, 16, 3)
SMALL = Model(width=4)
MODULES = {
  "small_cnn": small_cnn.SmallCNN(SMALL, 5),
  "resnet": resnet.ResNet(SMALL, 5, (1, 1, 1, 1), resnet.BasicBlock),
  "densenet": densenet.DenseNet(SMALL, 5, (1, 1, 1, 1)),
  "wide_resnet": wide_resnet.WideResNet(SMALL, 5, depth=1, factor=1),
  "mobilenet": mobilenet.MobileNetV2(SMALL, 5, ((1, 16, 1, 1), (6, 24, 2, 2))),
  "vit": vit.ViT(SMALL, 5, depth=2, heads=2, dim=2, hidden=4, small_data=True, dropout=0.1),
}


def _step(module, devices, variables, images, labels):
  def step(variables, images, labels):
    def loss(params, images):
      (_, logits), new = module.apply(
        {**variables, "params": params},
        images,
        True,
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.key(0)},
      )
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      return jax.lax.pmean(losses.mean(), "data"), (logits, new.get("batch_stats", {}))

    gradients, (logits, stats) = jax.grad(loss, argnums=(0, 1), has_aux=True)(
      variables["params"], images
    )
    return logits, gradients, stats

  data, every = jax.P("data"), jax.P()
  mesh = jax.make_mesh(
    (devices,), ("data",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices]
  )
  sharded = jax.shard_map(
    step, mesh=mesh, in_specs=(every, data, data), out_specs=(data, (every, data), every)
  )
  return jax.jit(sharded)(variables, images, labels)


@pytest.mark.long
@pytest.mark.parametrize("name", MODULES)
def test_results_do_not_depend_on_the_number_of_devices(name):
  rng = np.random.default_rng(0)
  # Brightness differs between images, so the statistics of a shard are not those of the batch.
  module = MODULES[name]
  images = rng.random((8, *SHAPE), np.float32) * (0.2 + 0.1 * np.arange(8)).reshape(8, 1, 1, 1)
  arguments = images.astype(np.float32), rng.integers(0, 5, 8, np.int32)
  variables = models.init(module, jax.random.key(0), SHAPE)
  one, *others = (_step(module, n, variables, *arguments) for n in (1, 2, 4))
  for several in others:
    for expected, actual in zip(jax.tree.leaves(one), jax.tree.leaves(several), strict=True):
      assert np.isfinite(expected).all()
      # Logits are about 1. A gradient that batch norm cancels consists of rounding errors.
      scale = max(np.abs(expected).max(), 0.1)
      np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * scale)
