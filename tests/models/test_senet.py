"""Tests SENet-18 against PyTorch and the parameter count of the literature."""

import oracle
import pytest

from miue_jax import models
from miue_jax.models import resnet, senet
from miue_jax.settings.config import Model


def test_number_of_parameters():
  # 10 classes, as in the widely used pytorch-cifar (Liu, 2017).
  module = models.build(Model(name="senet18"), 10, (32, 32, 3))
  assert oracle.number_of_parameters(module, (32, 32, 3)) == 11_260_354


def test_gates_have_the_published_number_of_parameters():
  # Section 4 of the paper: 2 / r * sum over stages of blocks * channels^2 (r = 16), and the biases.
  module = models.build(Model(name="senet18"), 10, (32, 32, 3))
  gates = 2 * sum(2 * c * c // 16 + c // 16 + c for c in (64, 128, 256, 512))
  # Without gates it is the PreActResNet-18 of the same source, whose stem has no batch norm.
  assert oracle.number_of_parameters(module, (32, 32, 3)) == 11_171_146 + 2 * 64 + gates


@pytest.mark.parametrize(
  ("stem", "side"),
  [("small", 16), pytest.param("imagenet", 64, marks=pytest.mark.long)],
)
def test_matches_pytorch(stem, side):
  torch = oracle.seeded_torch()
  nn, width = torch.nn, 16
  pairs = oracle.Pairs()
  paired = pairs.paired

  class Block(nn.Module):
    def __init__(self, index, inputs, channels, stride):
      super().__init__()

      def pair(layer, name):
        return paired(layer, f"PreActBlock_{index}", name)

      self.norm1 = pair(nn.BatchNorm2d(inputs), "BatchNorm_0")
      self.conv1 = pair(nn.Conv2d(inputs, channels, 3, stride, 1, bias=False), "Conv_0")
      self.norm2 = pair(nn.BatchNorm2d(channels), "BatchNorm_1")
      self.conv2 = pair(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), "Conv_1")
      self.squeeze = pair(nn.Linear(channels, channels // 16), "Dense_0")
      self.excite = pair(nn.Linear(channels // 16, channels), "Dense_1")
      self.changes = inputs != channels
      if self.changes:
        self.shortcut = pair(nn.Conv2d(inputs, channels, 1, stride, bias=False), "Conv_2")

    def forward(self, x):
      active = self.norm1(x).relu()
      y = self.conv2(self.norm2(self.conv1(active)).relu())
      gate = self.excite(self.squeeze(y.mean((2, 3))).relu()).sigmoid()
      return y * gate[:, :, None, None] + (self.shortcut(active) if self.changes else x)

  class SENet(nn.Module):
    def __init__(self):
      super().__init__()
      kernel, stride = (3, 1) if stem == "small" else (7, 2)
      conv = nn.Conv2d(3, width, kernel, stride, padding=kernel // 2, bias=False)
      pool = nn.Identity() if stem == "small" else nn.MaxPool2d(3, 2, padding=1)
      norm = paired(nn.BatchNorm2d(width), "BatchNorm_0")
      blocks = [Block(0, width, width, 1)]
      blocks += [Block(i, width * 2 ** (i - 1), width * 2**i, 2) for i in (1, 2, 3)]
      self.body = nn.Sequential(paired(conv, "Conv_0"), norm, nn.ReLU(), pool, *blocks)
      self.linear = paired(nn.Linear(8 * width, oracle.CLASSES), "classifier")

    def forward(self, x):
      features = self.body(x).mean((2, 3))
      return features, self.linear(features)

  model = Model(width=width, stem=stem, normalise="none")
  module = resnet.ResNet(model, oracle.CLASSES, (1, 1, 1, 1), senet.gated_block)
  oracle.assert_same(torch, SENet(), pairs, module, side)
