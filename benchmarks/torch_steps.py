"""Provides the delta and the source step in PyTorch, as its users would write them."""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from miue_jax.methods.miue import Settings
from miue_jax.models.layers import IMAGENET_MEAN, IMAGENET_STD
from miue_jax.plan.sizes import Sizes

_BATCHES = 2  # batches of random images, which a peer uses cyclically


class Peer:
  """One step in PyTorch, on the GPU where PyTorch finds one.

  Attributes:
    batch: Images of one step.
    deltas: Perturbations `[_BATCHES * batch, C, H, W]` in [-1, 1].
    step_seconds: Seconds of one step, from the latest measurement.
  """

  def __init__(self, stage: str, method: Settings, sizes: Sizes, batch: int, mode: str):
    """Builds the network and runs two steps.

    Args:
      stage: "delta" or "source".
      method: Settings of MI-UE for which `torch_peer.unavailable` finds no obstacle.
      sizes: Shape of the images and number of classes.
      batch: Images of one step.
      mode: "eager"; "channels_last", the memory format of images and network; or "compiled", which
        is that and torch.compile.
    """
    self.batch, self._index = batch, 0
    self._device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    layout = torch.contiguous_format if mode == "eager" else torch.channels_last
    network = ResNet18(method.model.width, sizes.image[2], sizes.classes)
    # The stubs of PyTorch lack this overload.
    network = network.to(self._device, memory_format=layout)  # pyrefly: ignore[no-matching-overload]
    if mode == "compiled":
      network.compile()
    count = _BATCHES * batch
    pixels = np.random.default_rng(0).integers(0, 256, (count, *sizes.image), np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self._device)
    images = images.contiguous(memory_format=layout)
    labels = torch.arange(count, device=self._device) % sizes.classes
    self.deltas = torch.zeros_like(images, dtype=torch.float32)  # keeps the memory format
    make_step = {"delta": delta_step, "source": source_step}[stage]
    self._step = make_step(method, network, images, labels, self.deltas)
    self.seconds(1)
    self.step_seconds = self.seconds(1)

  def measure(self, seconds: float) -> float:
    """Runs steps for about so many seconds and returns the seconds of one step."""
    steps = max(1, round(seconds / self.step_seconds))
    self.step_seconds = self.seconds(steps) / steps
    return self.step_seconds

  def seconds(self, steps: int) -> float:
    """Runs so many steps and returns the seconds they took."""
    began = time.perf_counter()
    for _ in range(steps):
      self._step(slice(self._index * self.batch, (self._index + 1) * self.batch))
      self._index = (self._index + 1) % _BATCHES
    if self._device == "cuda":
      torch.cuda.synchronize()
    return time.perf_counter() - began


def delta_step(
  method: Settings, network: nn.Module, images: Tensor, labels: Tensor, deltas: Tensor
) -> Callable[[slice], None]:
  """Returns a function that takes one sign step on the perturbations of some rows, in place."""
  network.eval().requires_grad_(False)

  def step(rows: slice) -> None:
    clean = _flipped(images[rows].float() / 255, method.augment)
    delta = deltas[rows].detach().requires_grad_()
    with _precision(method, images):
      features, _ = network(_normalised(clean + delta, method.model.normalise))
    loss = mi_reduction(
      features.float(), labels[rows], method.tau, method.zeta, method.similarity_weight
    )
    (gradient,) = torch.autograd.grad(loss, delta)
    moved = delta.detach() - method.step_size_start * gradient.sign()
    moved = moved.clamp(-method.epsilon, method.epsilon)
    deltas[rows] = (clean + moved).clamp(0, 1) - clean

  return step


def source_step(
  method: Settings, network: nn.Module, images: Tensor, labels: Tensor, deltas: Tensor
) -> Callable[[slice], None]:
  """Returns a function that takes one training step of the source model on some rows."""
  recipe = method.source
  network.train()
  optimiser = torch.optim.SGD(
    network.parameters(),
    lr=recipe.learning_rate,
    momentum=recipe.momentum,
    weight_decay=recipe.weight_decay,
  )

  def step(rows: slice) -> None:
    seen = _flipped(images[rows].float() / 255, recipe.augment) + deltas[rows]
    with _precision(method, images):
      _, logits = network(_normalised(seen, method.model.normalise))
    loss = functional.cross_entropy(logits.float(), labels[rows])
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

  return step


def mi_reduction(
  features: Tensor, labels: Tensor, tau: float, zeta: float, similarity_weight: float
) -> Tensor:
  """Returns the MI-reduction loss of one batch, `similarity_weight L_sim + zeta L_dist`.

  It is the loss of `miue_jax.objectives.mi_reduction`, averaged over the rows.

  Args:
    features: Features `[batch, d]`.
    labels: Integer labels `[batch]`.
    tau: Temperature of the similarity term.
    zeta: Weight of the distance term.
    similarity_weight: Weight of the similarity term.
  """
  same = labels[:, None] == labels[None, :]
  unit = functional.normalize(features, dim=1)
  pairs = unit @ unit.T / tau
  positive = pairs.masked_fill(~same, -torch.inf)
  loss = similarity_weight * (pairs.logsumexp(1) - positive.logsumexp(1))
  if zeta:
    distances = torch.cdist(features, features) * same
    loss = loss + zeta * torch.log1p(distances.sum(1) / features.shape[1])
  return loss.mean()


class Block(nn.Module):
  """Two 3x3 convolutions and a shortcut."""

  def __init__(self, inputs: int, outputs: int, stride: int):
    super().__init__()
    self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    self.norm1 = nn.BatchNorm2d(outputs)
    self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
    self.norm2 = nn.BatchNorm2d(outputs)
    self.relu = nn.ReLU(inplace=True)
    self.shortcut = nn.Identity()
    if stride != 1 or inputs != outputs:
      projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
      self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

  def forward(self, x: Tensor) -> Tensor:
    """Applies the block."""
    y = self.relu(self.norm1(self.conv1(x)))
    return self.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Module):
  """A ResNet-18 for small images: images -> (features, logits)."""

  def __init__(self, width: int, channels: int, classes: int):
    super().__init__()
    stem = [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
    blocks, inputs = [], width
    for stage in range(4):
      for stride in (2 if stage else 1, 1):
        blocks.append(Block(inputs, width * 2**stage, stride))
        inputs = width * 2**stage
    self.body = nn.Sequential(*stem, nn.ReLU(inplace=True), *blocks)
    self.classifier = nn.Linear(inputs, classes)

  def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns features `[batch, 8 * width]` and logits `[batch, classes]`."""
    features = self.body(x).mean((2, 3))
    return features, self.classifier(features)


def _flipped(images: Tensor, kind: str) -> Tensor:
  if kind == "none":
    return images
  chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
  return torch.where(chosen, images.flip(3), images)


def _normalised(images: Tensor, kind: str) -> Tensor:
  if kind == "none":
    return images
  mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
  if images.shape[1] == 1:
    mean, std = mean.mean(0, keepdim=True), std.mean(0, keepdim=True)
  mean, std = (value.reshape(1, -1, 1, 1).to(images.device) for value in (mean, std))
  return (images - mean) / std


def _precision(method: Settings, images: Tensor) -> torch.autocast:
  low = method.model.dtype == "bfloat16"
  return torch.autocast(images.device.type, torch.bfloat16, enabled=low)
