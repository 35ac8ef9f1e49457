"""Tests residual networks against PyTorch and the parameter counts of the literature."""

import oracle
import pytest

from miue_jax import models
from miue_jax.models import resnet
from miue_jax.settings.config import Model


@pytest.mark.slow
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
  assert oracle.number_of_parameters(module, shape) == count


def _torch_resnet(torch, depths, bottleneck, stem, width, classes):
  """Returns a ResNet in plain PyTorch, whose input is normalised images."""
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


@pytest.mark.parametrize(
  ("depths", "block", "stem", "side"),
  [
    ((2, 2, 2, 2), resnet.BasicBlock, "small", 16),
    ((1, 1, 1, 1), resnet.BasicBlock, "imagenet", 64),
    ((1, 2, 1, 1), resnet.Bottleneck, "small", 16),
  ],
)
def test_matches_pytorch(depths, block, stem, side):
  torch = oracle.seeded_torch()
  network = _torch_resnet(torch, depths, block is resnet.Bottleneck, stem, 8, oracle.CLASSES)
  module = resnet.ResNet(Model(width=8, stem=stem, normalise="none"), oracle.CLASSES, depths, block)
  oracle.assert_same(torch, network, _layers(network, block.__name__), module, side)
