"""Tests `build`, `init`, and the properties of every network in `MODELS`."""

import dataclasses
import doctest

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax import models
from miue_jax.models import layers
from miue_jax.settings.config import Model
from miue_jax.settings.errors import UserError

SHAPE = (16, 16, 3)
FEATURES = {  # at width 6, of a 16x16x3 image or the smallest that the network takes
  "small_cnn": 24,
  "resnet18": 48,
  "resnet34": 48,
  "resnet50": 192,
  "vgg11_bn": 48,
  "vgg19_bn": 48,
  "densenet121": 96,
  "wrn34_10": 60,
  "mobilenet_v2": 120,
  "senet18": 48,
  "sl_vit": 48,
  "vit_s": 36,
  "lenet5": 84,
  "mlp3": 384,
  "mlp2": 768,
  "linear": 768,
}
WITHOUT_BATCH_NORM = ("lenet5", "sl_vit", "vit_s", "mlp3", "mlp2", "linear")


def _images(shape=SHAPE, batch=3, seed=0):
  return jnp.array(np.random.default_rng(seed).random((batch, *shape), np.float32))


def _built(name, **fields):
  module = models.build(Model(name=name, width=6, **fields), 5, SHAPE)
  return module, models.init(module, jax.random.key(0), SHAPE)


def _abstract(module, shape, batch=2):
  variables = jax.eval_shape(lambda key: models.init(module, key, shape), jax.random.key(0))
  images = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
  return variables, jax.eval_shape(module.apply, variables, images)


def test_unknown_name_lists_the_known_ones():
  with pytest.raises(UserError) as error:
    models.build(Model(name="vgg"), 10, SHAPE)
  assert "'vgg'" in str(error.value)
  assert all(name in str(error.value) for name in models.MODELS)


@pytest.mark.parametrize("model", [None, "resnet18", Model])
def test_what_is_no_model_is_an_error(model):
  with pytest.raises(UserError, match="give a Model"):
    models.build(model, 10, SHAPE)


@pytest.mark.parametrize(
  ("field", "value", "allowed"),
  [
    ("stem", "large", '"small" or "imagenet"'),
    ("normalise", "cifar", '"imagenet" or "none"'),
    ("dtype", "float16", '"float32" or "bfloat16"'),
    ("width", 0, "at least 1"),
  ],
)
def test_unknown_value_is_named_with_the_choices(field, value, allowed):
  with pytest.raises(UserError, match=f"Setting {field} is {value!r}; it must be {allowed}"):
    models.Model(**{field: value})


def test_impossible_channels_are_an_error():
  with pytest.raises(UserError, match="4 channels"):
    models.build(Model(), 10, (16, 16, 4))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "stem", "side"),
  [
    ("small_cnn", "small", 4),
    ("resnet18", "small", 8),
    ("resnet50", "imagenet", 32),
    ("lenet5", "small", 16),
    ("mlp3", "small", 2),
    ("vgg11_bn", "small", 32),
    ("vgg11_bn", "imagenet", 32),
    ("densenet121", "small", 8),
    ("densenet121", "imagenet", 32),
    ("wrn34_10", "small", 4),
    ("wrn34_10", "imagenet", 16),
    ("mobilenet_v2", "small", 8),
    ("mobilenet_v2", "imagenet", 32),
    ("senet18", "small", 8),
    ("senet18", "imagenet", 32),
    ("vit_s", "small", 4),
    ("sl_vit", "imagenet", 16),
  ],
)
def test_smallest_image_fits_and_a_smaller_one_is_an_error(name, stem, side):
  model = Model(name=name, stem=stem, width=6)
  _, (features, _) = _abstract(models.build(model, 5, (side, side, 1)), (side, side, 1))
  assert features.size > 0
  for shape in ((side - 1, side, 1), (side, side - 1, 1)):
    with pytest.raises(UserError, match=f"at least {side}x{side}"):
      models.build(model, 5, shape)


@pytest.mark.parametrize(
  ("name", "stem", "shape", "patch"),
  [
    ("vit_s", "small", (30, 32, 3), 4),
    ("sl_vit", "small", (32, 27, 3), 4),
    ("vit_s", "imagenet", (224, 232, 3), 16),
  ],
)
def test_patches_that_do_not_divide_the_image_are_an_error(name, stem, shape, patch):
  with pytest.raises(UserError, match=f"{shape[0]}x{shape[1]} pixels .* multiple of {patch} "):
    models.build(Model(name=name, stem=stem), 10, shape)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "dtype"),
  [(name, "float32") for name in models.MODELS]
  + [(name, "bfloat16") for name in ("small_cnn", "resnet18", "sl_vit")],
)
def test_shapes_and_float32_outputs_and_variables(name, dtype):
  model = Model(name=name, width=6, dtype=dtype)
  shape = (32, 32, 3) if name.startswith("vgg") else SHAPE
  variables, (features, logits) = _abstract(models.build(model, 5, shape), shape)
  assert (features.shape, features.dtype) == ((2, FEATURES[name]), jnp.float32)
  assert (logits.shape, logits.dtype) == ((2, 5), jnp.float32)
  assert set(variables) == {"params", "batch_stats"}
  assert bool(variables["batch_stats"]) == (name not in WITHOUT_BATCH_NORM)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.slow
@pytest.mark.parametrize("name", models.MODELS)
def test_gray_images(name):
  side = 32 if name.startswith("vgg") else 28
  module = models.build(Model(name=name, width=6), 5, (side, side, 1))
  _, (_, logits) = _abstract(module, (side, side, 1))
  assert logits.shape == (2, 5)


# The layers of the other networks are compared with PyTorch in their files.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "lenet5", "mlp3", "mlp2", "linear"])
def test_a_row_depends_only_on_its_image_and_features_feed_the_classifier(name):
  module, variables = _built(name)
  images = _images()

  @jax.jit
  def run(images):
    (features, logits), pullback = jax.vjp(lambda x: module.apply(variables, x), images)
    seed = jnp.zeros_like(logits).at[1].set(jnp.arange(1.0, 6.0))
    return features, logits, pullback((jnp.ones_like(features).at[::2].set(0), seed))[0]

  features, logits, gradient = run(images)
  assert not gradient[0].any()
  assert not gradient[2].any()
  assert (jnp.abs(gradient[1]).max(axis=(0, 1)) > 0).all()
  head = jax.tree.map(lambda leaf: np.array(leaf, np.float64), variables["params"]["classifier"])
  expected = np.array(features, np.float64) @ head["kernel"] + head["bias"]
  np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "lenet5", "mlp3", "sl_vit"])
def test_bfloat16_is_used_and_stays_close_to_float32(name):
  module, variables = _built(name)
  half = module.clone(model=dataclasses.replace(module.model, dtype="bfloat16"))
  images = _images()
  for exact, rounded in zip(
    jax.jit(module.apply)(variables, images), jax.jit(half.apply)(variables, images), strict=True
  ):
    error = jnp.linalg.norm(exact - rounded) / jnp.linalg.norm(exact)
    assert 1e-5 < error < 2e-2  # one rounding to bfloat16 is up to 2**-9 = 2e-3


def test_init_draws_he_normal_kernels_and_a_uniform_classifier():
  module = models.build(Model(name="mlp3"), 100, SHAPE)
  params = models.init(module, jax.random.key(0), SHAPE)["params"]
  for layer, fan_in in (("Dense_0", 768), ("Dense_1", 768)):
    kernel = np.array(params[layer]["kernel"])
    assert kernel.shape[0] == fan_in
    assert kernel.std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.01)
    assert abs(kernel.mean()) < 0.01 * np.sqrt(2 / fan_in)
    assert not params[layer]["bias"].any()
  kernel, bound = np.array(params["classifier"]["kernel"]), 384**-0.5
  assert 0.99 * bound < np.abs(kernel).max() <= bound * (1 + 1e-6)
  assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.01)


def test_init_follows_the_key_and_starts_batch_norm_at_the_identity():
  module = models.build(Model(name="small_cnn", width=6), 5, SHAPE)
  first, again, other = (models.init(module, jax.random.key(seed), SHAPE) for seed in (0, 0, 1))
  chex.assert_trees_all_equal(first, again)
  kernels = [tree["params"]["Conv_0"]["kernel"] for tree in (first, other)]
  assert (kernels[0] != kernels[1]).all()
  for stats in first["batch_stats"].values():
    assert not stats["mean"].any()
    assert (stats["var"] == 1).all()


def test_one_image_without_a_batch_axis_is_an_assertion():
  module, variables = _built("linear")
  with pytest.raises(AssertionError, match="rank"):
    module.apply(variables, _images()[0])


def test_features_that_are_not_rows_are_an_error():
  class Pixels(models.Network):
    def backbone(self, x, train):
      return x

  network = Pixels(Model(), 10)
  with pytest.raises(UserError, match=r"Pixels .*shape \[2, 8, 8, 3\] for 2 images: return"):
    network.init(jax.random.key(0), jnp.zeros((2, 8, 8, 3)))


def test_stored_images_are_an_assertion():
  network = models.build(Model(name="linear"), 3, (8, 8, 3))
  variables = models.init(network, jax.random.key(0), (8, 8, 3))
  with pytest.raises(AssertionError, match="uint8"):
    models.infer(network, variables, jnp.zeros((2, 8, 8, 3), jnp.uint8))


def test_examples_of_docstrings_run():
  result = doctest.testmod(models)
  assert result.attempted
  assert not result.failed


def test_the_public_names():
  assert {"MODELS", "Model", "build", "init"} <= set(models.__all__)
  assert issubclass(models.MODELS["small_cnn"], models.Network)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "lenet5"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_folded_weights_give_the_same_results(name, dtype):
  module, variables = _built(name, dtype=dtype)
  folded = models.fold(module, variables, SHAPE)
  assert list(folded) == ([] if name in WITHOUT_BATCH_NORM else [layers.FOLDED])
  infer = jax.jit(models.infer, static_argnums=0)
  got, expected = (infer(module, each, _images()) for each in (variables | folded, variables))
  chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)
