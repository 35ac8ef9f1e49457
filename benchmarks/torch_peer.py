"""The same steps in eager PyTorch, as people write them: what `benchmark` compares with.

PyTorch is imported only when a peer is made.
"""

import contextlib
import importlib.util
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from miue_jax.models.layers import IMAGENET_MEAN, IMAGENET_STD
from miue_jax.plan.sizes import Sizes
from miue_jax.settings.config import Config
from miue_jax.settings.errors import UserError

STAGES = ("delta", "source")
_POOL = 2  # batches of random images that a peer goes round


def unavailable(config: Config) -> str | None:
  """Why there is no peer for `config`; None where there is one."""
  method = config.method
  if importlib.util.find_spec("torch") is None:
    return "PyTorch is not installed (pip install 'miue-jax[torch]')"
  if config.method.model.name != "resnet18" or config.method.model.stem != "small":
    return "the PyTorch side knows resnet18 with the small stem alone"
  if method.name != "miue" or method.class_wise or method.balanced or method.augment_poisoned:
    return "the PyTorch side knows miue sample-wise, unbalanced and augmented before delta alone"
  if not {method.augment, config.method.source.augment} <= {"none", "flip"}:
    return "the PyTorch side knows the augmentations none and flip alone"
  return None


class Peer:
  """One step of `STAGES` in eager PyTorch, on the GPU if it sees one.

  Attributes:
    batch: images in a step.
    step_seconds: of a step, as far as known.
  """

  def __init__(self, stage: str, config: Config, sizes: Sizes, batch: int, channels_last: bool):
    """Builds the network and runs two steps.

    Raises:
      UserError: there is no peer for the config.
    """
    if reason := unavailable(config):
      raise UserError(f"No peer can run: {reason}; use --peer=none.")
    import torch

    self._torch, self.batch = torch, batch
    self._device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = resnet18(torch, config.method.model.width, sizes.image[2], sizes.classes)
    network = network.to(self._device, memory_format=layout)
    count = _POOL * batch
    images = np.random.default_rng(0).integers(0, 256, (count, *sizes.image), np.uint8)
    images = torch.from_numpy(images).permute(0, 3, 1, 2).to(self._device)
    images = images.contiguous(memory_format=layout)
    labels = torch.arange(count, device=self._device) % sizes.classes
    make = {"delta": self._delta, "source": self._source}[stage]
    self._step = make(config, network, images, labels)
    self._index = 0
    self.seconds(1)
    self.step_seconds = self.seconds(1)

  def measure(self, seconds: float) -> float:
    """Seconds per step over about that many seconds; remembers it."""
    steps = max(1, round(seconds / self.step_seconds))
    self.step_seconds = self.seconds(steps) / steps
    return self.step_seconds

  def seconds(self, steps: int) -> float:
    """Runs so many steps and returns the seconds they took."""
    began = time.perf_counter()
    for _ in range(steps):
      self._step(slice(self._index * self.batch, (self._index + 1) * self.batch))
      self._index = (self._index + 1) % _POOL
    if self._device == "cuda":
      self._torch.cuda.synchronize()
    return time.perf_counter() - began

  def _delta(self, config: Config, network: Any, images: Any, labels: Any) -> Callable:
    torch, method = self._torch, config.method
    network.eval().requires_grad_(False)
    deltas = torch.zeros(images.shape, device=self._device)
    deltas = deltas.contiguous(memory_format=_layout_of(torch, images))

    def step(rows):
      clean = self._flipped(images[rows].float() / 255, method.augment)
      delta = deltas[rows].detach().requires_grad_()
      with self._precision(config):
        features, _ = network(_normalised(torch, clean + delta, config.method.model.normalise))
      loss = mi_reduction(torch, features.float(), labels[rows], method)
      (gradient,) = torch.autograd.grad(loss, delta)
      moved = delta.detach() - method.step_size_start * gradient.sign()
      moved = moved.clamp(-method.epsilon, method.epsilon)
      deltas[rows] = (clean + moved).clamp(0, 1) - clean

    return step

  def _source(self, config: Config, network: Any, images: Any, labels: Any) -> Callable:
    torch, recipe = self._torch, config.method.source
    network.train()
    deltas = torch.zeros(images.shape, device=self._device)
    deltas = deltas.contiguous(memory_format=_layout_of(torch, images))
    optimiser = torch.optim.SGD(
      network.parameters(),
      lr=recipe.learning_rate,
      momentum=recipe.momentum,
      weight_decay=recipe.weight_decay,
    )

    def step(rows):
      seen = self._flipped(images[rows].float() / 255, recipe.augment) + deltas[rows]
      with self._precision(config):
        _, logits = network(_normalised(torch, seen, config.method.model.normalise))
      loss = torch.nn.functional.cross_entropy(logits.float(), labels[rows])
      optimiser.zero_grad()
      loss.backward()
      optimiser.step()

    return step

  def _flipped(self, images: Any, kind: str) -> Any:
    if kind == "none":
      return images
    chosen = self._torch.rand(len(images), 1, 1, 1, device=self._device) < 0.5
    return self._torch.where(chosen, images.flip(3), images)

  def _precision(self, config: Config) -> Any:
    low = config.method.model.dtype == "bfloat16"
    return self._torch.autocast(self._device, self._torch.bfloat16, enabled=low)


@contextlib.contextmanager
def apart(
  stage: str, config: Config, sizes: Sizes, batch: int, channels_last: bool
) -> Iterator[Callable[[float], float]]:
  """A `Peer`, whose arguments it takes, in a process of its own; yields `Peer.measure`.

  There PyTorch has memory as its users have it: `runtime.start` changes how this process allocates.
  """
  arguments = stage, config, sizes, batch, channels_last
  spawn = multiprocessing.get_context("spawn")
  with ProcessPoolExecutor(1, spawn, _make_here, arguments) as process:
    yield lambda seconds: process.submit(_measure_here, seconds).result()


_here: list[Peer] = []  # of the process that `apart` starts


def _make_here(*arguments) -> None:
  _here.append(Peer(*arguments))


def _measure_here(seconds: float) -> float:
  return _here[0].measure(seconds)


def mi_reduction(torch: Any, features: Any, labels: Any, method: Any) -> Any:
  """The MI-reduction loss of one batch, `L_sim + zeta L_dist`: see `objectives`, whose twin it is.

  Args:
    torch: the module.
    features: `[batch, d]`.
    labels: `[batch]`.
    method: tau, zeta and similarity_weight.

  Returns:
    The mean over rows.
  """
  same = labels[:, None] == labels[None, :]
  unit = torch.nn.functional.normalize(features, dim=1)
  pairs = unit @ unit.T / method.tau
  positive = pairs.masked_fill(~same, -torch.inf)
  loss = method.similarity_weight * (pairs.logsumexp(1) - positive.logsumexp(1))
  if method.zeta:
    distances = torch.cdist(features, features) * same
    loss = loss + method.zeta * torch.log1p(distances.sum(1) / features.shape[1])
  return loss.mean()


def resnet18(torch: Any, width: int, channels: int, classes: int) -> Any:
  """A ResNet-18 for small images in plain PyTorch: images -> (features, logits)."""
  nn = torch.nn

  class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs, outputs, stride):
      super().__init__()
      self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
      self.norm1 = nn.BatchNorm2d(outputs)
      self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
      self.norm2 = nn.BatchNorm2d(outputs)
      self.relu = nn.ReLU(inplace=True)
      self.shortcut = nn.Identity()
      if stride != 1 or inputs != outputs:
        self.shortcut = nn.Sequential(
          nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x):
      y = self.relu(self.norm1(self.conv1(x)))
      return self.relu(self.norm2(self.conv2(y)) + self.shortcut(x))

  class ResNet18(nn.Module):
    """Stem, four stages of two blocks, average, classifier."""

    def __init__(self):
      super().__init__()
      stem = [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
      blocks, inputs = [], width
      for stage in range(4):
        for stride in (2 if stage else 1, 1):
          blocks.append(Block(inputs, width * 2**stage, stride))
          inputs = width * 2**stage
      self.body = nn.Sequential(*stem, nn.ReLU(inplace=True), *blocks)
      self.classifier = nn.Linear(inputs, classes)

    def forward(self, x):
      features = self.body(x).mean((2, 3))
      return features, self.classifier(features)

  return ResNet18()


def _normalised(torch: Any, images: Any, how: str) -> Any:
  if how == "none":
    return images
  mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
  if images.shape[1] == 1:
    mean, std = mean.mean(0, keepdim=True), std.mean(0, keepdim=True)
  mean, std = (value.reshape(1, -1, 1, 1).to(images.device) for value in (mean, std))
  return (images - mean) / std


def _layout_of(torch: Any, images: Any) -> Any:
  last = images.is_contiguous(memory_format=torch.channels_last)
  return torch.channels_last if last and images.shape[1] > 1 else torch.contiguous_format
