"""Compares a network of this package with the same network in PyTorch, with copied weights."""

import chex
import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from miue_jax import models

CLASSES, BATCH = 5, 8


def seeded_torch():
  """Returns PyTorch, which draws the same weights every time; without it the test is skipped."""
  torch = pytest.importorskip("torch", reason="the oracle is a PyTorch network")
  # With seed 0 a ReLU input of a ResNet of bottlenecks is apparently within rounding of zero:
  # gradients differ by 1e-2 around one spot, and by 1e-6 with seeds 1, 2 and 3.
  torch.manual_seed(1)
  return torch


class Pairs(list):
  """Pairs of a PyTorch layer and its path in a network of this package."""

  def paired(self, layer, *path):
    """Adds a pair and returns the layer."""
    self.append((layer, path))
    return layer


def number_of_parameters(module, shape):
  """Returns the number of parameters of a network, without drawing them."""
  variables = jax.eval_shape(lambda key: models.init(module, key, shape), jax.random.key(0))
  return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def assert_same(torch, network, layers, module, side, optimise=False):
  """Asserts equal outputs, and in training equal gradients and statistics, over two devices.

  Args:
    torch: The PyTorch package.
    network: PyTorch module without dropout, from normalised images `[batch, channel, height,
      width]` to (features, logits) of `CLASSES` classes.
    layers: Pairs of a layer or parameter of `network` and its path in `module`.
    module: Network of this package, with `normalise` "none".
    side: Height and width of the images.
    optimise: Whether XLA's CPU backend optimises, which takes longer to compile.
  """
  layers = list(layers)
  counts = {}  # values per channel in each batch norm
  for layer, path in layers:
    if isinstance(layer, torch.nn.BatchNorm2d):
      for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
        tensor.data.add_(torch.empty_like(tensor).uniform_(0, 0.2))
      layer.register_forward_hook(
        lambda _, x, y, path=path: counts.update({(*path, "var"): y.numel() // y.shape[1]})
      )
  variables = _variables(torch, layers)
  images = torch.rand(BATCH, 3, side, side, requires_grad=True)
  ours = images.detach().numpy().transpose(0, 2, 3, 1)

  network.eval()
  expected = [output.detach().numpy() for output in network(images)]
  assert_close(list(jax.jit(module.apply)(variables, ours)), expected, 1e-5)

  network.train()
  weights = torch.linspace(-1, 1, BATCH * CLASSES).reshape(BATCH, CLASSES)
  features, logits = network(images)
  (logits * weights).sum(1).mean().backward()

  def step(variables, images, weights):
    def loss(params, images):
      (features, logits), new = module.apply(
        {**variables, "params": params}, images, True, mutable=["batch_stats"]
      )
      value = jax.lax.pmean((logits * weights).sum(1).mean(), "data")
      return value, (features, logits, new.get("batch_stats", {}))

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], images)

  data, every = jax.P("data"), jax.P()
  mesh = jax.make_mesh((2,), ("data",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
  sharded = jax.shard_map(
    step, mesh=mesh, in_specs=(every, data, data), out_specs=((every, data), (data, data, every))
  )
  options = None if optimise else {"xla_backend_optimization_level": 0}
  (by_params, by_images), (ours_features, ours_logits, new_stats) = jax.jit(
    sharded, compiler_options=options
  )(variables, ours, weights.numpy())
  assert_close([ours_features, ours_logits], [x.detach().numpy() for x in (features, logits)], 1e-5)
  assert_close(by_images, images.grad.numpy().transpose(0, 2, 3, 1), 1e-4)
  # A bias before batch norm has no effect, and its gradient consists of rounding errors.
  expected = _variables(torch, layers, gradient=True)["params"]
  largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
  assert_close(by_params, expected, 1e-4, floor=5e-2 * largest)
  # PyTorch's running variance averages the unbiased estimate, so undo n / (n - 1) in the new part.
  expected = _variables(torch, layers)["batch_stats"]
  factors = unflatten_dict({path: 1 - 1 / count for path, count in counts.items()})
  for path in counts:
    *parents, _ = path
    old, new, factor = variables["batch_stats"], expected, factors
    for parent in parents:
      old, new, factor = old[parent], new[parent], factor[parent]
    new["var"] = 0.9 * old["var"] + (new["var"] - 0.9 * old["var"]) * factor["var"]
  assert_close(new_stats, expected, 1e-5)


def assert_close(actual, expected, tolerance, floor=0.0):
  """Asserts equal leaves, relative to the largest entry of each leaf or `floor`."""
  chex.assert_trees_all_equal_structs(actual, expected)
  for one, two in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(one, two, rtol=0, atol=tolerance * max(np.abs(two).max(), floor))


def _variables(torch, layers, gradient=False):
  """Returns PyTorch weights (or gradients) and running statistics as variables of this package."""
  params, stats = {}, {}
  for layer, path in layers:
    if isinstance(layer, torch.nn.Parameter):
      params[path] = (layer.grad if gradient else layer).detach().numpy()
      continue
    scaling = isinstance(layer, torch.nn.BatchNorm2d | torch.nn.LayerNorm)
    for name, tensor in layer.named_parameters():
      ours = "bias" if name == "bias" else "scale" if scaling else "kernel"
      params[*path, ours] = _copied(tensor.grad if gradient else tensor)
    if isinstance(layer, torch.nn.BatchNorm2d):
      stats[*path, "mean"] = _copied(layer.running_mean)
      stats[*path, "var"] = _copied(layer.running_var)
  return {"params": unflatten_dict(params), "batch_stats": unflatten_dict(stats)}


def _copied(tensor):
  """Returns a PyTorch weight in the layout of this package: OIHW -> HWIO, OI -> IO."""
  array = tensor.detach().numpy()
  return np.array(array.transpose({1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}[array.ndim]))
