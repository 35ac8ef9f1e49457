"""Runs steps of PyTorch in a separate process; this module does not import PyTorch."""

import contextlib
import importlib.util
import multiprocessing
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from miue_jax.machine import memory
from miue_jax.plan.sizes import Sizes
from miue_jax.settings.config import Method

STAGES = ("delta", "source")


def unavailable(method: Any) -> str | None:
  """Returns why the settings of a method have no PyTorch peer, or None where they have one."""
  if importlib.util.find_spec("torch") is None:
    return "PyTorch is not installed (pip install 'miue-jax[torch]')"
  if method.name != "miue" or method.class_wise or method.balanced or method.augment_poisoned:
    return "the PyTorch side supports only miue, sample-wise, unbalanced, augmented before delta"
  if method.model.name != "resnet18" or method.model.stem != "small":
    return "the PyTorch side supports only resnet18 with the small stem"
  if not {method.augment, method.source.augment} <= {"none", "flip"}:
    return "the PyTorch side supports only the augmentations none and flip"
  return None


@contextlib.contextmanager
def separate(
  stage: str, method: Method, sizes: Sizes, batch: int, mode: str
) -> Generator[Callable[[float], tuple[float, int]]]:
  """Starts a `torch_steps.Peer` in a new process.

  Yields its method `measure`, which also returns the bytes of that process at its peak.

  `meshes.start` changes how this process allocates memory; a new process gives PyTorch the memory
  allocation that its users have. The arguments are those of `Peer`.
  """
  arguments = stage, method, sizes, batch, mode
  spawn = multiprocessing.get_context("spawn")
  with ProcessPoolExecutor(1, spawn, _make, arguments) as process:
    yield lambda seconds: process.submit(_measure, seconds).result()


_peers: list[Any] = []  # holds the peer of the new process


def _make(*arguments) -> None:
  from benchmarks import torch_steps

  _peers.append(torch_steps.Peer(*arguments))


def _measure(seconds: float) -> tuple[float, int]:
  return _peers[0].measure(seconds), memory.peak()
