"""Tests features of named layers against the outputs of the network and a convolution by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax import models
from miue_jax.data.images import LazyImages
from miue_jax.settings import config
from miue_jax.settings.errors import UserError
from miue_jax.train import layer_features, prediction

SHAPE = (16, 16, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (21, *SHAPE), np.uint8)


@pytest.fixture(scope="module")
def resnet():
  """Returns a narrow ResNet-18 and its variables."""
  module = models.build(config.Model(width=4), 10, SHAPE)
  return module, models.init(module, jax.random.key(0), SHAPE)


@pytest.mark.slow
def test_layers_are_named_in_the_order_in_which_their_calls_end(resnet):
  known = layer_features.names(resnet[0], SHAPE)
  outer = [name for name in known if "/" not in name]
  blocks = [f"BasicBlock_{i}" for i in range(8)]
  assert outer == ["Conv_0", "BatchNorm_0", *blocks, "classifier", "features", "logits"]
  assert known.index("BasicBlock_0/Conv_0") < known.index("BasicBlock_0")
  assert len(set(known)) == len(known)


@pytest.mark.parametrize("name", ["small_cnn", "mlp3", "lenet5", "sl_vit"])
def test_every_network_has_named_layers(name):
  module = models.build(config.Model(name=name, width=4), 10, (32, 32, 3))
  known = layer_features.names(module, (32, 32, 3))
  assert known[-2:] == layer_features.OUTPUTS
  assert "classifier" in known


def test_patterns_match_on_one_level(resnet):
  known = layer_features.names(resnet[0], SHAPE)
  blocks = tuple(f"BasicBlock_{i}" for i in range(8))
  assert layer_features.chosen(("BasicBlock_*",), known) == blocks
  assert layer_features.chosen(("features", "BasicBlock_1", "BasicBlock_[01]"), known) == (
    *blocks[:2],
    "features",
  )
  inner = layer_features.chosen(("BasicBlock_2/*",), known)
  assert inner[0] == "BasicBlock_2/Conv_0"
  assert all(name.startswith("BasicBlock_2/") for name in inner)
  assert layer_features.chosen(("*",), known) == tuple(name for name in known if "/" not in name)
  assert layer_features.select(("logits", "features"), resnet[0], SHAPE) == layer_features.OUTPUTS
  assert layer_features.select(("BasicBlock_*",), resnet[0], SHAPE) == blocks
  with pytest.raises(UserError, match=r"'Block_\*', which matches no layer; this network has Conv"):
    layer_features.chosen(("BasicBlock_0", "Block_*"), known)


@pytest.mark.long
def test_all_blocks_come_from_one_pass(resnet, use_devices):
  use_devices(2)
  module, variables = resnet
  wanted = layer_features.chosen(("*", "BasicBlock_3/Conv_0"), layer_features.names(module, SHAPE))
  found = layer_features.extract(module, wanted, variables, IMAGES)
  assert found.keys() == set(wanted)
  images = IMAGES.astype(np.float32) / 255
  features, logits = module.apply(variables, images, train=False)
  np.testing.assert_allclose(found["features"], features, rtol=1e-5, atol=1e-4)
  np.testing.assert_allclose(found["logits"], logits, rtol=1e-5, atol=1e-4)
  np.testing.assert_allclose(found["classifier"], logits, rtol=1e-5, atol=1e-4)
  # The network averages its last block over positions.
  np.testing.assert_allclose(found["BasicBlock_7"], features, rtol=1e-5, atol=1e-4)
  widths = [found[f"BasicBlock_{i}"].shape for i in range(8)]
  assert widths == [(21, 4 * 2 ** (i // 2)) for i in range(8)]
  assert found["BasicBlock_3/Conv_0"].shape == (21, 8)
  # The stem is computed by hand.
  stem = jax.lax.conv_general_dilated(
    models.layers.normalise(jnp.asarray(images), "imagenet"),
    variables["params"]["Conv_0"]["kernel"],
    (1, 1),
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  np.testing.assert_allclose(found["Conv_0"], stem.mean(axis=(1, 2)), rtol=1e-5, atol=1e-4)


def test_lazy_images_are_read_batch_by_batch(resnet, use_devices, monkeypatch):
  use_devices(1)
  module, variables = resnet
  monkeypatch.setattr(prediction, "EVALUATION_BATCH", 8)
  asked = []

  def read(ids):
    asked.append(len(ids))
    return IMAGES[ids]

  layers = ("BasicBlock_0", "features")
  extract = functools.partial(layer_features.extract, module, layers, variables)
  lazy = extract(LazyImages(read, len(IMAGES), "test", image_shape=SHAPE))
  assert max(asked) <= 8
  assert sum(asked) == len(IMAGES)
  for name, values in extract(IMAGES).items():
    np.testing.assert_array_equal(lazy[name], values)
