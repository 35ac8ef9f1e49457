"""Tests the shared layers against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from numpy.lib.stride_tricks import sliding_window_view

from miue_jax.models import layers


def test_normalise_imagenet_of_colour_and_gray_and_none():
  colour = np.random.default_rng(0).random((2, 3, 4, 3), np.float32)
  mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
  np.testing.assert_allclose(
    layers.normalise(jnp.array(colour), "imagenet"), (colour - mean) / std, atol=1e-6
  )
  gray = colour[..., :1]
  np.testing.assert_allclose(
    layers.normalise(jnp.array(gray), "imagenet"), (gray - 0.449) / 0.226, atol=1e-6
  )
  np.testing.assert_array_equal(layers.normalise(jnp.array(colour), "none"), colour)


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (2, 5, 7, 3)])
def test_halve_takes_the_maximum_of_each_window_and_routes_the_gradient_to_it(shape):
  x = np.random.default_rng(1).permutation(np.prod(shape)).reshape(shape).astype(np.float32)
  windows = sliding_window_view(x, (2, 2), axis=(1, 2))[:, ::2, ::2]
  expected = windows.max(axis=(-2, -1))
  value, pullback = jax.vjp(layers.halve, jnp.array(x))
  np.testing.assert_array_equal(value, expected)
  # All values differ, so the values of the result identify the maxima.
  (gradient,) = pullback(value)
  np.testing.assert_array_equal(gradient, np.where(np.isin(x, expected), x, 0))


class _Norm(nn.Module):
  dtype: str

  @nn.compact
  def __call__(self, x, train):
    return layers.batch_norm(train, self.dtype)(x)


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_batch_norm_uses_the_statistics_of_the_global_batch(dtype, atol):
  # The mean differs between devices, so the statistics of one shard would be wrong.
  x = np.random.default_rng(2).normal(size=(8, 3, 3, 2)).astype(np.float32)
  x += np.arange(8, dtype=np.float32).reshape(8, 1, 1, 1)
  x = np.array(jnp.array(x, dtype), np.float32)  # the exact input of the layer
  module = _Norm(dtype)
  variables = module.init(jax.random.key(0), jnp.array(x), False)

  def step(variables, x):
    y, new = module.apply(variables, x, True, mutable=["batch_stats"])
    return y, new["batch_stats"]["BatchNorm_0"]

  mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
  sharded = jax.shard_map(
    step, mesh=mesh, in_specs=(jax.P(), jax.P("data")), out_specs=(jax.P("data"), jax.P())
  )
  y, new = jax.jit(sharded)(variables, jnp.array(x, dtype))

  mean, var = x.astype(np.float64).mean((0, 1, 2)), x.astype(np.float64).var((0, 1, 2))
  np.testing.assert_allclose(
    np.array(y, np.float64), (x - mean) / np.sqrt(var + 1e-5), atol=atol, rtol=atol
  )
  np.testing.assert_allclose(new["mean"], 0.1 * mean, rtol=1e-5)
  np.testing.assert_allclose(new["var"], 0.9 + 0.1 * var, rtol=1e-5)
  assert y.dtype == dtype
  assert {leaf.dtype for leaf in jax.tree.leaves((variables, new))} == {jnp.dtype("float32")}


def test_relu_and_its_derivatives():
  x = jnp.array([-2.0, -0.0, 0.0, 3.0, jnp.nan])
  np.testing.assert_array_equal(layers.relu(x), jnp.array([0.0, 0.0, 0.0, 3.0, jnp.nan]))
  slope = jax.grad(lambda x: (layers.relu(x) * jnp.arange(1.0, 5)).sum())(x[:4])
  np.testing.assert_array_equal(slope, [0, 0, 0, 4])
  second = jax.hessian(lambda x: (layers.relu(x) ** 2).sum())(x[:4])
  np.testing.assert_array_equal(second, np.diag([0.0, 0, 0, 2]))


class _ConvNorm(nn.Module):
  stride: int
  groups: int

  @nn.compact
  def __call__(self, x, train):
    return layers.conv_norm(x, 4, 3, self.stride, train, "float32", self.groups)


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 2)])
def test_without_training_batch_norm_is_a_part_of_the_convolution(stride, groups):
  rng = np.random.default_rng(3)
  x = rng.normal(size=(2, 6, 6, 2)).astype(np.float32)
  module = _ConvNorm(stride, groups)
  variables = module.init(jax.random.key(0), jnp.array(x), False)
  names = variables["params"], variables["batch_stats"]
  assert [sorted(part) for part in names] == [["BatchNorm_0", "Conv_0"], ["BatchNorm_0"]]
  weights, statistics = (
    jax.tree.map(lambda a: jnp.array(rng.uniform(0.5, 2, a.shape), a.dtype), part) for part in names
  )
  got = module.apply({"params": weights, "batch_stats": statistics}, x, False)

  w, x64 = np.array(weights["Conv_0"]["kernel"], np.float64), x.astype(np.float64)
  padded = np.pad(x64, ((0, 0), (1, 1), (1, 1), (0, 0)))
  windows = sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::stride, ::stride]
  inputs, outputs = 2 // groups, 4 // groups
  convolved = np.concatenate(
    [
      np.einsum(
        "nhwcij,ijco->nhwo",
        windows[:, :, :, group * inputs : (group + 1) * inputs],
        w[..., group * outputs : (group + 1) * outputs],
      )
      for group in range(groups)
    ],
    axis=-1,
  )
  norm, running = jax.tree.map(np.array, (weights["BatchNorm_0"], statistics["BatchNorm_0"]))
  expected = (convolved - running["mean"]) / np.sqrt(running["var"] + 1e-5)
  np.testing.assert_allclose(got, expected * norm["scale"] + norm["bias"], rtol=1e-5, atol=1e-5)


def test_folded_weights_are_computed_once():
  x = jnp.array(np.random.default_rng(4).normal(size=(2, 6, 6, 2)), jnp.float32)
  module = _ConvNorm(1, 1)
  variables = module.init(jax.random.key(0), x, False)
  expected, made = module.apply(variables, x, False, mutable=[layers.FOLDED])
  assert sorted(made[layers.FOLDED]["BatchNorm_0"]) == ["kernel", "shift"]
  # What the weights and statistics say afterwards is not read any more.
  emptied = jax.tree.map(jnp.zeros_like, variables)
  np.testing.assert_array_equal(module.apply({**emptied, **made}, x, False), expected)
  np.testing.assert_array_equal(module.apply(variables, x, False), expected)
