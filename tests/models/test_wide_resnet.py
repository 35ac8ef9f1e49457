"""Tests wide residual networks against PyTorch and the parameter counts of the literature."""

import functools

import oracle
import pytest

from miue_jax import models
from miue_jax.models import wide_resnet
from miue_jax.settings.config import Model


# 10 classes. WRN-28-10, with 4 blocks a stage, is 36.5 M in Table 5 of the paper, 36,479,194 in
# full; 46,160,474 is what RobustBench counts in its WRN-34-10.
@pytest.mark.slow
@pytest.mark.parametrize(("blocks", "count"), [(4, 36_479_194), (5, 46_160_474)])
def test_number_of_parameters(blocks, count):
  module = models.build(Model(name="wrn34_10"), 10, (32, 32, 3))
  assert oracle.number_of_parameters(module.clone(depth=blocks), (32, 32, 3)) == count
  assert module.depth == 5


@pytest.mark.parametrize("stem", ["small", "imagenet"])
def test_matches_pytorch(stem):
  torch = oracle.seeded_torch()
  nn = torch.nn
  conv = functools.partial(nn.Conv2d, bias=False)
  pairs = oracle.Pairs()
  paired = pairs.paired

  class Block(nn.Module):
    def __init__(self, index, inputs, channels, stride):
      super().__init__()
      pair = functools.partial(lambda layer, name: paired(layer, f"PreActBlock_{index}", name))
      self.norm1 = pair(nn.BatchNorm2d(inputs), "BatchNorm_0")
      self.conv1 = pair(conv(inputs, channels, 3, stride, padding=1), "Conv_0")
      self.norm2 = pair(nn.BatchNorm2d(channels), "BatchNorm_1")
      self.conv2 = pair(conv(channels, channels, 3, padding=1), "Conv_1")
      self.changes = inputs != channels
      if self.changes:
        self.shortcut = pair(conv(inputs, channels, 1, stride), "Conv_2")

    def forward(self, x):
      active = self.norm1(x).relu()
      y = self.conv2(self.norm2(self.conv1(active)).relu())
      return y + (self.shortcut(active) if self.changes else x)

  class WideResNet(nn.Module):
    def __init__(self):
      super().__init__()
      blocks, inputs, norms = [], 4, 0
      if stem == "small":
        start = [paired(conv(3, 4, 3, padding=1), "Conv_0")]
      else:
        norms = 1
        start = [
          paired(conv(3, 4, 7, 2, padding=3), "Conv_0"),
          paired(nn.BatchNorm2d(4), "BatchNorm_0"),
          nn.ReLU(),
          nn.MaxPool2d(3, 2, padding=1),
        ]
      for stage, channels in enumerate((8, 16, 32)):
        for i in range(2):
          blocks.append(Block(len(blocks), inputs, channels, 2 if stage > 0 and i == 0 else 1))
          inputs = channels
      norm = paired(nn.BatchNorm2d(inputs), f"BatchNorm_{norms}")
      self.body = nn.Sequential(*start, *blocks, norm, nn.ReLU())
      self.linear = paired(nn.Linear(inputs, oracle.CLASSES), "classifier")

    def forward(self, x):
      features = self.body(x).mean((2, 3))
      return features, self.linear(features)

  model = Model(width=16, stem=stem, normalise="none")
  module = wide_resnet.WideResNet(model, oracle.CLASSES, depth=2, factor=2)
  oracle.assert_same(torch, WideResNet(), pairs, module, 12 if stem == "small" else 32)
