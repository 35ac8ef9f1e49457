"""Trains a victim that shares no code with this package: a small ResNet in PyTorch.

It needs the extra `torch`, and trains with the one-cycle schedule of many tutorials, because what
withstands one schedule may be learned with another.
"""

import math

import numpy as np

from miue_jax.settings.errors import UserError

LABEL = "a ResNet in PyTorch with a one-cycle schedule"
_BATCH, _PAD = 64, 4
_WIDTHS = 16, 32, 64
_RATE, _DECAY = 0.2, 5e-4  # the largest learning rate, and the weight decay
_EPOCHS, _UPDATES = 12, 600  # at least


def require() -> None:
  """Raises a UserError if PyTorch is not installed."""
  try:
    import torch  # noqa: F401
  except ImportError as error:
    raise UserError(
      "PyTorch is not installed: pip install 'miue-jax[torch]', or leave --torch out."
    ) from error


def train(
  learned: tuple[np.ndarray, np.ndarray], tested: tuple[np.ndarray, np.ndarray], seed: int
) -> tuple[float, float]:
  """Trains on some pictures and tests on others.

  Args:
    learned: Pictures, uint8 `[N, s, s, 3]`, and their classes.
    tested: Test pictures and their classes, in the same form.
    seed: Seed of weights, order and augmentation.

  Returns:
    Accuracy after the last and at the best epoch, in percent.
  """
  import torch

  torch.manual_seed(seed)
  (images, labels), (others, classes) = (
    (torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(numbers.astype(np.int64)))
    for pixels, numbers in (learned, tested)
  )
  model = _network(int(max(labels.max(), classes.max())) + 1)
  batch = min(_BATCH, len(images))
  steps = len(images) // batch
  epochs = max(_EPOCHS, math.ceil(_UPDATES / steps))
  optimiser = torch.optim.SGD(model.parameters(), _RATE / 10, momentum=0.9, weight_decay=_DECAY)
  schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=epochs * steps)
  reached = []
  for _ in range(epochs):
    model.train()
    order = torch.randperm(len(images))[: steps * batch].reshape(steps, batch)
    for rows in order:
      loss = torch.nn.functional.cross_entropy(model(_augmented(images[rows])), labels[rows])
      optimiser.zero_grad()
      loss.backward()
      optimiser.step()
      schedule.step()
    model.eval()
    with torch.no_grad():
      found = torch.cat([model(_scaled(part)).argmax(1) for part in others.split(256)])
    reached.append(100 * float((found == classes).float().mean()))
  return reached[-1], max(reached)


def _scaled(images):
  return images.float() / 127.5 - 1


def _augmented(images):
  """Shifts pictures by up to 4 pixels and mirrors half of them."""
  import torch

  size = images.shape[-1]
  padded = torch.nn.functional.pad(images, (_PAD,) * 4)
  shifts = torch.randint(2 * _PAD + 1, (len(images), 2)).tolist()
  moved = torch.stack(
    [
      picture[:, row : row + size, column : column + size]
      for picture, (row, column) in zip(padded, shifts, strict=True)
    ]
  )
  mirrored = torch.rand(len(images)) < 0.5
  return _scaled(torch.where(mirrored[:, None, None, None], moved.flip(-1), moved))


def _network(classes: int):
  """Returns a ResNet of three stages with one residual block each."""
  from torch import nn

  def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
      nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs)
    )

  class Residual(nn.Module):
    def __init__(self, width: int):
      super().__init__()
      self.path = nn.Sequential(convolution(width, width), nn.ReLU(), convolution(width, width))

    def forward(self, x):
      return nn.functional.relu(x + self.path(x))

  layers: list[nn.Module] = []
  for inputs, outputs, stride in zip((3, *_WIDTHS), _WIDTHS, (1, 2, 2), strict=False):
    layers += [convolution(inputs, outputs, stride), nn.ReLU(), Residual(outputs)]
  return nn.Sequential(
    *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(_WIDTHS[-1], classes)
  )
