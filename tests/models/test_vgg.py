"""Tests VGG against PyTorch and the parameter counts of the literature."""

import oracle
import pytest

from miue_jax import models
from miue_jax.models import vgg
from miue_jax.settings.config import Model


# 10 classes, biases included: as in the widely used pytorch-cifar (Liu, 2017); the same numbers are
# Table 7 of "NeuralFuse" (Sun et al., NeurIPS 2024).
@pytest.mark.parametrize(("name", "count"), [("vgg11_bn", 9_231_114), ("vgg19_bn", 20_040_522)])
def test_number_of_parameters(name, count):
  module = models.build(Model(name=name), 10, (32, 32, 3))
  assert oracle.number_of_parameters(module, (32, 32, 3)) == count


def test_larger_images_keep_the_features():
  module = models.build(Model(name="vgg11_bn"), 10, (224, 224, 3))
  assert oracle.number_of_parameters(module, (224, 224, 3)) == 9_231_114


def test_matches_pytorch():
  torch = oracle.seeded_torch()
  nn, width, depths = torch.nn, 4, (1, 2, 1, 1, 1)

  class VGG(nn.Module):
    def __init__(self):
      super().__init__()
      body, inputs = [], 3
      for stage, depth in enumerate(depths):
        for _ in range(depth):
          channels = width * (1, 2, 4, 8, 8)[stage]
          body += [nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
          inputs = channels
        body.append(nn.MaxPool2d(2))
      self.body = nn.Sequential(*body)
      self.linear = nn.Linear(inputs, oracle.CLASSES)

    def forward(self, x):
      features = self.body(x).flatten(1)
      return features, self.linear(features)

  network = VGG()
  layers = [(network.linear, ("classifier",))]
  for kind, name in ((nn.Conv2d, "Conv"), (nn.BatchNorm2d, "BatchNorm")):
    found = (layer for layer in network.body if isinstance(layer, kind))
    layers += [(layer, (f"{name}_{i}",)) for i, layer in enumerate(found)]
  module = vgg.VGG(Model(width=width, normalise="none"), oracle.CLASSES, depths)
  # Without optimisation XLA's CPU backend computes the gradient of `layers.halve` wrongly: it
  # searches the maximum among values that it computes again with different rounding.
  oracle.assert_same(torch, network, layers, module, 32, optimise=True)
