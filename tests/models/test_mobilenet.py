"""Tests MobileNetV2 against PyTorch and the parameter counts of the literature."""

import oracle
import pytest

from miue_jax import models
from miue_jax.models import mobilenet
from miue_jax.settings.config import Model


# The paper's 3.4 M (Table 4) are 3,504,872 in torchvision; 10 classes need 990 * 1281 fewer. The
# stems differ only in strides.
@pytest.mark.parametrize(
  ("stem", "classes", "count"), [("small", 10, 2_236_682), ("imagenet", 1000, 3_504_872)]
)
def test_number_of_parameters(stem, classes, count):
  module = models.build(Model(name="mobilenet_v2", stem=stem), classes, (32, 32, 3))
  assert oracle.number_of_parameters(module, (32, 32, 3)) == count


@pytest.mark.parametrize(
  ("stem", "side"),
  [("small", 16), pytest.param("imagenet", 64, marks=pytest.mark.long)],
)
def test_matches_pytorch(stem, side):
  torch = oracle.seeded_torch()
  nn = torch.nn
  stages = ((1, 16, 1, 1), (6, 24, 2, 2), (2, 32, 1, 2), (2, 32, 1, 2))
  pairs = []

  def conv_norm(path, number, inputs, outputs, kernel, stride, groups=1):
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(outputs)
    pairs.extend([(conv, (*path, f"Conv_{number}")), (norm, (*path, f"BatchNorm_{number}"))])
    return [conv, norm]

  class Block(nn.Module):
    def __init__(self, index, inputs, expansion, channels, stride):
      super().__init__()
      path, hidden, body = (f"InvertedResidual_{index}",), inputs * expansion, []
      plan = [(inputs, hidden, 1, 1)] if expansion > 1 else []
      plan += [(hidden, hidden, 3, stride, hidden), (hidden, channels, 1, 1)]
      for number, layer in enumerate(plan):
        body += [*conv_norm(path, number, *layer), nn.ReLU6()]
      self.body = nn.Sequential(*body[:-1])
      self.residual = stride == 1 and inputs == channels

    def forward(self, x):
      return x + self.body(x) if self.residual else self.body(x)

  class MobileNet(nn.Module):
    def __init__(self):
      super().__init__()
      inputs, early, blocks = 4, 1 if stem == "small" else 2, []
      start = [*conv_norm((), 0, 3, 4, 3, early), nn.ReLU6()]
      for stage, (expansion, channels, depth, stride) in enumerate(stages):
        for i in range(depth):
          step = 1 if i > 0 else early if stage == 1 else stride
          blocks.append(Block(len(blocks), inputs, expansion, channels // 8, step))
          inputs = channels // 8
      end = [*conv_norm((), 1, inputs, 160, 1, 1), nn.ReLU6()]
      self.body = nn.Sequential(*start, *blocks, *end)
      self.linear = nn.Linear(160, oracle.CLASSES)
      pairs.append((self.linear, ("classifier",)))

    def forward(self, x):
      features = self.body(x).mean((2, 3))
      return features, self.linear(features)

  model = Model(width=8, stem=stem, normalise="none")
  module = mobilenet.MobileNetV2(model, oracle.CLASSES, stages)
  oracle.assert_same(torch, MobileNet(), pairs, module, side)
