"""Residual networks against PyTorch and against the parameter counts of the literature."""

import jax
import numpy as np
import pytest

from miue_jax import models
from miue_jax.config import Model
from miue_jax.models import resnet


@pytest.mark.parametrize(
  ("name", "stem", "classes", "count"),
  [
    ("resnet18", "small", 10, 11_173_962),
    ("resnet50", "small", 10, 23_520_842),
    ("resnet18", "imagenet", 1000, 11_689_512),
    ("resnet34", "imagenet", 1000, 21_797_672),
    ("resnet50", "imagenet", 1000, 25_557_032),
  ],
)
def test_number_of_parameters(name, stem, classes, count):
  shape = (32, 32, 3)
  module = models.build(Model(name=name, stem=stem), classes, shape)
  variables = jax.eval_shape(lambda key: models.init(module, key, shape), jax.random.key(0))
  assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


def _torch_resnet(torch, depths, bottleneck, stem, width, classes):
  """A ResNet in plain PyTorch whose normalised images are the input."""
  nn = torch.nn

  class Block(nn.Module):
    def __init__(self, inputs, channels, stride):
      super().__init__()
      if bottleneck:
        out = 4 * channels
        plan = [(inputs, channels, 1, 1), (channels, channels, 3, stride), (channels, out, 1, 1)]
      else:
        out = channels
        plan = [(inputs, channels, 3, stride), (channels, channels, 3, 1)]
      self.main = len(plan)
      if stride != 1 or inputs != out:
        plan.append((inputs, out, 1, stride))
      self.convs = nn.ModuleList(nn.Conv2d(*p, padding=p[2] // 2, bias=False) for p in plan)
      self.norms = nn.ModuleList(nn.BatchNorm2d(p[1]) for p in plan)

    def forward(self, x):
      shortcut = self.norms[-1](self.convs[-1](x)) if len(self.convs) > self.main else x
      for i in range(self.main):
        x = self.norms[i](self.convs[i](x))
        x = x.relu() if i + 1 < self.main else x
      return (x + shortcut).relu()

  class ResNet(nn.Module):
    def __init__(self):
      super().__init__()
      small = stem == "small"
      kernel, stride = (3, 1) if small else (7, 2)
      self.conv = nn.Conv2d(3, width, kernel, stride, padding=kernel // 2, bias=False)
      self.norm = nn.BatchNorm2d(width)
      self.pool = nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1)
      blocks, inputs = [], width
      for stage, depth in enumerate(depths):
        for i in range(depth):
          channels = width * 2**stage
          blocks.append(Block(inputs, channels, 2 if stage > 0 and i == 0 else 1))
          inputs = channels * (4 if bottleneck else 1)
      self.blocks = nn.ModuleList(blocks)
      self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
      x = self.pool(self.norm(self.conv(x)).relu())
      for block in self.blocks:
        x = block(x)
      features = x.mean((2, 3))
      return features, self.linear(features)

  return ResNet()


def _layers(network, block_name):
  """Yields (layer of the PyTorch network, path of ours)."""
  yield network.conv, ("Conv_0",)
  yield network.norm, ("BatchNorm_0",)
  yield network.linear, ("classifier",)
  for i, block in enumerate(network.blocks):
    for j, (conv, norm) in enumerate(zip(block.convs, block.norms, strict=True)):
      yield conv, (f"{block_name}_{i}", f"Conv_{j}")
      yield norm, (f"{block_name}_{i}", f"BatchNorm_{j}")


def _copied(tensor):
  """Our layout of a PyTorch weight: OIHW -> HWIO, OI -> IO."""
  array = tensor.detach().numpy()
  return np.array(array.transpose({1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}[array.ndim]))


def _nested(flat):
  tree = {}
  for (*parents, leaf), value in flat.items():
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = value
  return tree


def _variables(torch, network, block_name, gradient=False):
  """The PyTorch weights (or their gradients) and running statistics as our variables."""
  params, stats = {}, {}
  for layer, path in _layers(network, block_name):
    norm = isinstance(layer, torch.nn.BatchNorm2d)
    for name, tensor in layer.named_parameters():
      ours = "bias" if name == "bias" else "scale" if norm else "kernel"
      params[*path, ours] = _copied(tensor.grad if gradient else tensor)
    if norm:
      stats[*path, "mean"] = _copied(layer.running_mean)
      stats[*path, "var"] = _copied(layer.running_var)
  return {"params": _nested(params), "batch_stats": _nested(stats)}


def _assert_close(actual, expected, tolerance):
  """Compares trees leaf by leaf, relative to the largest entry of each leaf."""
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for one, two in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(one, two, rtol=0, atol=tolerance * np.abs(two).max())


@pytest.mark.parametrize(
  ("depths", "block", "stem", "side"),
  [
    ((2, 2, 2, 2), resnet.BasicBlock, "small", 16),
    ((1, 1, 1, 1), resnet.BasicBlock, "imagenet", 64),
    ((1, 2, 1, 1), resnet.Bottleneck, "small", 16),
  ],
)
def test_matches_pytorch(depths, block, stem, side):
  torch = pytest.importorskip("torch", reason="the oracle is a PyTorch network")
  # Not seed 0, where the bottleneck network meets what looks like a ReLU input within rounding of
  # zero: gradients differ by 1e-2 around one spot, and by 1e-6 with seeds 1, 2 and 3.
  torch.manual_seed(1)
  width, classes, batch = 8, 5, 8
  block_name = block.__name__
  network = _torch_resnet(torch, depths, block is resnet.Bottleneck, stem, width, classes)
  counts = {}  # values per channel that each batch norm sees
  for layer, path in _layers(network, block_name):
    if isinstance(layer, torch.nn.BatchNorm2d):
      for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
        tensor.data.add_(torch.empty_like(tensor).uniform_(0, 0.2))
      layer.register_forward_hook(
        lambda _, x, y, path=path: counts.update({(*path, "var"): y.numel() // y.shape[1]})
      )
  model = Model(width=width, stem=stem, normalise="none")
  module = resnet.ResNet(depths, block, model, classes)
  variables = _variables(torch, network, block_name)
  images = torch.rand(batch, 3, side, side, requires_grad=True)
  ours = images.detach().numpy().transpose(0, 2, 3, 1)

  network.eval()
  expected = [output.detach().numpy() for output in network(images)]
  _assert_close(list(jax.jit(module.apply)(variables, ours)), expected, 1e-5)

  network.train()
  weights = torch.linspace(-1, 1, batch * classes).reshape(batch, classes)
  features, logits = network(images)
  (logits * weights).sum(1).mean().backward()

  def step(variables, images, weights):
    def loss(params, images):
      (features, logits), new = module.apply(
        {**variables, "params": params}, images, True, mutable=["batch_stats"]
      )
      value = jax.lax.pmean((logits * weights).sum(1).mean(), "data")
      return value, (features, logits, new["batch_stats"])

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], images)

  data, every = jax.P("data"), jax.P()
  mesh = jax.make_mesh((2,), ("data",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
  sharded = jax.shard_map(
    step, mesh=mesh, in_specs=(every, data, data), out_specs=((every, data), (data, data, every))
  )
  quick = jax.jit(sharded, compiler_options={"xla_backend_optimization_level": 0})
  (by_params, by_images), (ours_features, ours_logits, new_stats) = quick(
    variables, ours, weights.numpy()
  )
  _assert_close(
    [ours_features, ours_logits], [x.detach().numpy() for x in (features, logits)], 1e-5
  )
  _assert_close(by_images, images.grad.numpy().transpose(0, 2, 3, 1), 1e-4)
  _assert_close(by_params, _variables(torch, network, block_name, gradient=True)["params"], 1e-4)
  # PyTorch's running variance averages the unbiased estimate: undo n / (n - 1) of the new part.
  expected = _variables(torch, network, block_name)["batch_stats"]
  factors = _nested({path: 1 - 1 / count for path, count in counts.items()})
  for path in counts:
    *parents, _ = path
    old, new, factor = variables["batch_stats"], expected, factors
    for parent in parents:
      old, new, factor = old[parent], new[parent], factor[parent]
    new["var"] = 0.9 * old["var"] + (new["var"] - 0.9 * old["var"]) * factor["var"]
  _assert_close(new_stats, expected, 1e-5)
