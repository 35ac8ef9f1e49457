"""Tests DenseNet against PyTorch and the parameter counts of the literature."""

import oracle
import pytest

from miue_jax import models
from miue_jax.models import densenet
from miue_jax.settings.config import Model


# For CIFAR-10 as in the widely used pytorch-cifar (Liu, 2017), for ImageNet as in torchvision.
@pytest.mark.slow
@pytest.mark.parametrize(
  ("stem", "classes", "count"), [("small", 10, 6_956_298), ("imagenet", 1000, 7_978_856)]
)
def test_number_of_parameters(stem, classes, count):
  module = models.build(Model(name="densenet121", stem=stem), classes, (32, 32, 3))
  assert oracle.number_of_parameters(module, (32, 32, 3)) == count


@pytest.mark.parametrize(
  ("stem", "side"),
  [("small", 16), pytest.param("imagenet", 64, marks=pytest.mark.long)],
)
def test_matches_pytorch(stem, side):
  torch = oracle.seeded_torch()
  nn, growth, depths = torch.nn, 4, (1, 2, 1, 1)
  pairs = oracle.Pairs()
  paired = pairs.paired

  class Layer(nn.Module):
    def __init__(self, index, inputs):
      super().__init__()
      name = f"DenseLayer_{index}"
      self.body = nn.Sequential(
        paired(nn.BatchNorm2d(inputs), name, "BatchNorm_0"),
        nn.ReLU(),
        paired(nn.Conv2d(inputs, 4 * growth, 1, bias=False), name, "Conv_0"),
        paired(nn.BatchNorm2d(4 * growth), name, "BatchNorm_1"),
        nn.ReLU(),
        paired(nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False), name, "Conv_1"),
      )

    def forward(self, x):
      return torch.cat([x, self.body(x)], 1)

  class DenseNet(nn.Module):
    def __init__(self):
      super().__init__()
      channels, convs, norms, layers = 2 * growth, 1, 0, 0
      if stem == "small":
        body = [paired(nn.Conv2d(3, channels, 3, padding=1, bias=False), "Conv_0")]
      else:
        body = [
          paired(nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False), "Conv_0"),
          paired(nn.BatchNorm2d(channels), "BatchNorm_0"),
          nn.ReLU(),
          nn.MaxPool2d(3, 2, padding=1),
        ]
        norms = 1
      for block, depth in enumerate(depths):
        if block > 0:
          body += [
            paired(nn.BatchNorm2d(channels), f"BatchNorm_{norms}"),
            nn.ReLU(),
            paired(nn.Conv2d(channels, channels // 2, 1, bias=False), f"Conv_{convs}"),
            nn.AvgPool2d(2),
          ]
          channels, convs, norms = channels // 2, convs + 1, norms + 1
        for _ in range(depth):
          body.append(Layer(layers, channels))
          channels, layers = channels + growth, layers + 1
      body += [paired(nn.BatchNorm2d(channels), f"BatchNorm_{norms}"), nn.ReLU()]
      self.body = nn.Sequential(*body)
      self.linear = paired(nn.Linear(channels, oracle.CLASSES), "classifier")

    def forward(self, x):
      features = self.body(x).mean((2, 3))
      return features, self.linear(features)

  model = Model(width=2 * growth, stem=stem, normalise="none")
  module = densenet.DenseNet(model, oracle.CLASSES, depths)
  oracle.assert_same(torch, DenseNet(), pairs, module, side)
