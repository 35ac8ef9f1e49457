"""Times the steps of a recipe, alone and in alternation with PyTorch, on random pixels."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

import jax
import numpy as np

from benchmarks import torch_peer
from benchmarks.tables import spread
from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.images import Images
from miue_jax.machine import memory
from miue_jax.machine.progress import Progress
from miue_jax.methods import ensemble
from miue_jax.plan import chips, plan, programs
from miue_jax.plan.sizes import Sizes, known
from miue_jax.plan.stopwatch import Stopwatch
from miue_jax.settings.config import Config
from miue_jax.settings.errors import UserError
from miue_jax.train import prediction

PEERS = ("auto", "torch", "none")


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of a benchmark.

  Attributes:
    stages: Names of the steps to time: phases of the method, "victim", "evaluate"; empty: all.
    repeats: Number of runs of each stage; median and range are reported.
    seconds: Approximate duration of one run.
    peer: "auto" (compare with PyTorch where it is installed and has the step), "torch" or "none".
    peer_batch: Batch of PyTorch in the memory format channels_last; 0 takes ours.
    peer_compile: Whether to compare with torch.compile too, in channels_last.
  """

  stages: tuple[str, ...] = ()
  repeats: int = 5
  seconds: float = 2.0
  peer: str = "auto"
  peer_batch: int = 0
  peer_compile: bool = False


def sizes_for(
  config: Config,
  images: int = 0,
  image_shape: tuple[int, int, int] | None = None,
  classes: int = 0,
) -> Sizes:
  """Returns the sizes of the random data.

  Args:
    config: Recipe, whose data give the defaults.
    images: Number of training images; 0 takes two of the largest batch.
    image_shape: Height, width, channels; None takes the recipe's where it is known, else 32, 32, 3.
    classes: Number of classes; 0 takes the recipe's where it is known, else 10.
  """
  found = known(config.data) or Sizes((32, 32, 3), 0, 0, 10)
  train = images or 2 * max(config.batch_sizes)
  return Sizes(
    image_shape or found.image, train, prediction.EVALUATION_BATCH, classes or found.classes
  )


def run(config: Config, sizes: Sizes, settings: Settings) -> dict[str, Any]:
  """Times every stage on the mesh that is set.

  Returns:
    The content of the JSON file: `config`, `machine`, `data`, `repeats`, one row for each of
    `stages` and `peers`, and `no_peer`, the reason where there is no peer.

  Raises:
    UserError: A stage is unknown, the config does not fit the devices, or the requested peer cannot
      run.
  """
  no_peer = "--peer=none" if settings.peer == "none" else torch_peer.unavailable(config.method)
  if no_peer and settings.peer == "torch":
    raise UserError(f"--peer=torch cannot run: {no_peer}.")
  built = programs.build(config, sizes)
  if unknown := sorted(set(settings.stages) - set(built)):
    raise UserError(f"Unknown stage {unknown[0]!r} in --stages; known: {', '.join(built)}.")
  machine = _machine()
  stages, peers = [], []
  for stage in settings.stages or built:
    program = built[stage]
    watch = Stopwatch(program)
    stages.append(_stage(program, watch, settings))
    if stage in torch_peer.STAGES and no_peer is None:
      peers.extend(_compare(config, settings, sizes, program, watch))
  machine["peak_rss_bytes"] = memory.peak()
  return {
    "config": config.name,
    "machine": machine,
    "data": f"{sizes.train} random images of {'x'.join(map(str, sizes.image))}",
    "repeats": settings.repeats,
    "stages": stages,
    "peers": peers,
    "no_peer": no_peer,
  }


def check_plan(config: Config, sizes: Sizes) -> dict[str, float]:
  """Generates a poison of random images and compares its time with the prediction of `plan`.

  Returns:
    `predicted` and `measured` seconds, and their `ratio`.
  """
  built = programs.build(config, sizes)
  steps = {name: built[name].total for name in programs.generation(built)}
  predicted = plan.seconds(plan.calibrate(config, sizes), steps)
  generator = np.random.default_rng(0)
  images = generator.integers(0, 256, (sizes.train, *sizes.image), np.uint8)
  labels = (generator.permutation(sizes.train) % sizes.classes).astype(np.int32)
  names = tuple(str(label) for label in range(sizes.classes))
  dataset = Dataset("random", Split(Images(images), labels), None, names)
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    progress = functools.partial(Progress, root / "tensorboard")
    began = time.perf_counter()
    ensemble.generate(dataset, config.method, config.seed, root / "states", progress)
    measured = time.perf_counter() - began
  return {"predicted": predicted, "measured": measured, "ratio": measured / predicted}


def _stage(program: programs.Program, watch: Stopwatch, settings: Settings) -> dict[str, Any]:
  """Times one program and reads its cost."""
  compile_seconds = watch.compile_seconds
  times = [watch.measure(settings.seconds) for _ in range(settings.repeats)]
  cost = program.cost()
  mesh = jax.sharding.get_mesh()
  device = mesh.devices.flat[0]
  speed = cost.flops / statistics.median(times) / 1e12
  chip = chips.of_kind(device.device_kind)
  # The CPU backend keeps no account of its memory; the compiler does.
  held = (device.memory_stats() or {}).get("peak_bytes_in_use", cost.peak)
  return {
    "step": program.name,
    "batch": program.batch,
    "images/s": spread([program.batch / seconds for seconds in times]),
    "steps/s": spread([1 / seconds for seconds in times]),
    "compile (s)": compile_seconds,
    "GFLOP per image": cost.flops / program.batch / 1e9,
    "TFLOP/s": speed,
    "of bf16 peak": None if chip is None else speed / (mesh.size * chip.tflops),
    "memory (MB)": round(held / 1e6),
    "sent per step (MB)": cost.sent / 1e6,
  }


def _compare(
  config: Config,
  settings: Settings,
  sizes: Sizes,
  program: programs.Program,
  watch: Stopwatch,
) -> list[dict[str, Any]]:
  """Times ours and the peers in alternation, A B C A B C ..., one at a time."""
  batches = {"eager": program.batch, "channels_last": settings.peer_batch or program.batch}
  if settings.peer_compile:
    batches["compiled"] = batches["channels_last"]
  speeds: dict[str, list[float]] = {name: [] for name in batches}
  ratios: dict[str, list[float]] = {name: [] for name in batches}
  resident: dict[str, int] = {}
  with contextlib.ExitStack() as stack:
    peers = {
      name: stack.enter_context(
        torch_peer.separate(program.name, config.method, sizes, batch, name)
      )
      for name, batch in batches.items()
    }
    for _ in range(settings.repeats):
      ours = program.batch / watch.measure(settings.seconds)
      for name, measure in peers.items():
        seconds, resident[name] = measure(settings.seconds)
        speed = batches[name] / seconds
        speeds[name].append(speed)
        ratios[name].append(ours / speed)
  return [
    {
      "step": program.name,
      "PyTorch": name,
      "its batch": batch,
      "its images/s": spread(speeds[name]),
      "ours / its": spread(ratios[name]),
      "its process (MB)": round(resident[name] / 1e6),
    }
    for name, batch in batches.items()
  ]


def _machine() -> dict[str, Any]:
  """Describes the machine; its load is read before the benchmark adds to it."""
  mesh = jax.sharding.get_mesh()
  try:
    torch = importlib.metadata.version("torch")
  except importlib.metadata.PackageNotFoundError:
    torch = None
  return {
    "device": mesh.devices.flat[0].device_kind,
    "devices": mesh.size,
    "cores": os.cpu_count() or 1,
    "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
    "jax": jax.__version__,
    "torch": torch,
  }
