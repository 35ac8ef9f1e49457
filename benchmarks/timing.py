"""Times the steps of a recipe, alone and beside PyTorch, on random pixels."""

import contextlib
import dataclasses
import importlib.metadata
import os
import pathlib
import resource
import statistics
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np

from benchmarks import estimator_speed, torch_peer
from miue_jax.data.dataset import Dataset, Split
from miue_jax.information import estimators
from miue_jax.machine.progress import Progress
from miue_jax.methods import ensemble
from miue_jax.plan import chips, plan, programs
from miue_jax.plan.cost import Cost
from miue_jax.plan.sizes import Sizes, known
from miue_jax.plan.stopwatch import Stopwatch, spread
from miue_jax.settings.config import Config
from miue_jax.settings.errors import UserError
from miue_jax.train import prediction

STAGES = ("delta", "source", "victim", "evaluate", "measure", "information")
PEERS = ("auto", "torch", "none")
_FEATURES = 512  # of a ResNet-18


@dataclasses.dataclass(frozen=True)
class Settings:
  """What is timed and how.

  Attributes:
    stages: of `STAGES`.
    repeats: runs of each; their median and range are reported.
    seconds: that one run lasts, about.
    images: random training images; 0 takes two of the largest batch.
    image_shape: height, width, channels; None takes those of the recipe's data where they are
      known, else 32, 32, 3.
    classes: number of classes; 0 as for image_shape, else 10.
    peer: auto (PyTorch if it imports and has such a step), torch or none.
    peer_batch: of the peer in channels_last; 0 takes ours.
  """

  stages: tuple[str, ...] = STAGES
  repeats: int = 5
  seconds: float = 2.0
  images: int = 0
  image_shape: tuple[int, int, int] | None = None
  classes: int = 0
  peer: str = "auto"
  peer_batch: int = 0


def sizes_for(config: Config, settings: Settings) -> Sizes:
  """The `Sizes` of the random data."""
  found = known(config.data) or Sizes((32, 32, 3), 0, 0, 10)
  train = settings.images or 2 * max(config.batch_sizes)
  return Sizes(
    settings.image_shape or found.image,
    train,
    prediction.EVALUATION_BATCH,
    settings.classes or found.classes,
  )


def run(config: Config, settings: Settings) -> dict[str, Any]:
  """Times every stage; the mesh must be set.

  Returns:
    What goes to the JSON file: `machine`, `stages`, `peers` and, of the stage `information`, what
    `estimator_speed.run` returns, else None.

  Raises:
    UserError: the config does not fit the devices, or the peer that was asked for cannot run.
  """
  sizes = sizes_for(config, settings)
  peer = _peer_reason(config, settings)
  load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0  # before ours adds to it
  stages, peers, information = [], [], None
  for stage in settings.stages:
    if stage == "measure":
      stages.append(_measure(config, settings))
      continue
    if stage == "information":
      information = estimator_speed.run(settings.repeats)
      continue
    program = programs.build(config, sizes)[stage]
    watch, row = _stage(program, settings)
    stages.append(row)
    if stage in ("delta", "source") and peer is None:
      peers.extend(_compare(stage, config, settings, sizes, program, watch))
  return {
    "config": config.name,
    "machine": _machine() | {"load_before": load, "cores": os.cpu_count() or 1},
    "data": f"{sizes.train} random images of {'x'.join(map(str, sizes.image))}",
    "repeats": settings.repeats,
    "stages": stages,
    "peers": peers,
    "no_peer": peer,
    "information": information,
  }


def check_plan(config: Config, settings: Settings) -> dict[str, float]:
  """Makes a poison of random images and compares its time with what `plan` predicts.

  Returns:
    `predicted` and `measured` seconds, and their `ratio`.
  """
  sizes = sizes_for(config, settings)
  names = ("delta", "source")
  built = programs.build(config, sizes)
  timings = plan.calibrate(config, sizes)
  predicted = plan.seconds(timings, {name: built[name].total for name in names})
  generator = np.random.default_rng(0)
  images = generator.integers(0, 256, (sizes.train, *sizes.image), np.uint8)
  labels = (generator.permutation(sizes.train) % sizes.classes).astype(np.int32)
  names = tuple(str(label) for label in range(sizes.classes))
  dataset = Dataset("random", Split(images, labels), None, names)
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)

    def progress(*arguments):
      return Progress(root / "tensorboard", *arguments)

    began = time.perf_counter()
    ensemble.generate(dataset, config.method, config.seed, root / "states", progress)
    measured = time.perf_counter() - began
  return {"predicted": predicted, "measured": measured, "ratio": measured / predicted}


def _stage(program: programs.Program, settings: Settings) -> tuple[Stopwatch, dict[str, Any]]:
  """Times one program and reads its cost."""
  watch = Stopwatch(program)
  compile_seconds = watch.compile_seconds
  times = [watch.measure(settings.seconds) for _ in range(settings.repeats)]
  cost = program.cost()
  mesh = jax.sharding.get_mesh()
  device = mesh.devices.flat[0]
  speed = cost.flops / statistics.median(times) / 1e12
  chip = chips.of_kind(device.device_kind)
  row = {
    "stage": program.name,
    "batch": program.batch,
    "images_per_second": spread([program.batch / seconds for seconds in times]),
    "steps_per_second": spread([1 / seconds for seconds in times]),
    "compile_seconds": compile_seconds,
    "flops_per_image": cost.flops / program.batch,
    "tflops": speed,
    "peak_share": None if chip is None else speed / (mesh.size * chip.tflops),
    "memory": _memory(device, cost),
    "bytes_sent_per_step": cost.sent,
  }
  return watch, row


def _memory(device: jax.Device, cost: Cost) -> dict[str, Any]:
  stats = device.memory_stats()
  if stats and "peak_bytes_in_use" in stats:
    return {"bytes": stats["peak_bytes_in_use"], "what": "most in use on a device so far"}
  return {"bytes": cost.peak, "what": "of a device, by the compiler's own account"}


def _measure(config: Config, settings: Settings) -> dict[str, Any]:
  """Times the mutual-information estimate of two sets of random features."""
  measure = config.measure
  count = measure.samples or 2000
  x, y = np.random.default_rng(0).standard_normal((2, count, _FEATURES)).astype(np.float32)

  def once() -> float:
    began = time.perf_counter()
    estimators.sliced(
      x, y, projections=measure.projections, inner={"bins": measure.bins}, seed=measure.seed
    )
    return time.perf_counter() - began

  first = once()
  times = [once() for _ in range(settings.repeats)]
  return {
    "stage": "measure",
    "batch": count,
    "images_per_second": spread([count / seconds for seconds in times]),
    "steps_per_second": spread([1 / seconds for seconds in times]),
    "compile_seconds": max(first - statistics.median(times), 0.0),
    "flops_per_image": None,
    "tflops": None,
    "peak_share": None,
    "memory": None,
    "bytes_sent_per_step": 0.0,
  }


def _peer_reason(config: Config, settings: Settings) -> str | None:
  """Why there is no comparison with PyTorch; None when there is one.

  Raises:
    UserError: there is none and the settings ask for it.
  """
  if settings.peer == "none":
    return "--peer=none"
  reason = torch_peer.unavailable(config)
  if reason and settings.peer == "torch":
    raise UserError(f"--peer=torch cannot be had: {reason}.")
  return reason


def _compare(
  stage: str,
  config: Config,
  settings: Settings,
  sizes: Sizes,
  program: programs.Program,
  watch: Stopwatch,
) -> list[dict[str, Any]]:
  """Times ours and two peers in alternation: A B C A B C ...; nothing runs beside the one timed."""
  batches = {"eager": program.batch, "channels_last": settings.peer_batch or program.batch}
  speeds: dict[str, list[float]] = {name: [] for name in batches}
  ratios: dict[str, list[float]] = {name: [] for name in batches}
  with contextlib.ExitStack() as stack:
    peers = {
      name: stack.enter_context(
        torch_peer.apart(stage, config, sizes, batch, channels_last=name == "channels_last")
      )
      for name, batch in batches.items()
    }
    for _ in range(settings.repeats):
      ours = program.batch / watch.measure(settings.seconds)
      for name, measure in peers.items():
        speed = batches[name] / measure(settings.seconds)
        speeds[name].append(speed)
        ratios[name].append(ours / speed)
  return [
    {
      "stage": stage,
      "peer": name,
      "batch": batch,
      "images_per_second": spread(speeds[name]),
      "ratio": spread(ratios[name]),
    }
    for name, batch in batches.items()
  ]


def _machine() -> dict[str, Any]:
  mesh = jax.sharding.get_mesh()
  device = mesh.devices.flat[0]
  # Kilobytes on Linux, bytes on macOS.
  unit = 1 if sys.platform == "darwin" else 1024
  return {
    "device": device.device_kind,
    "devices": mesh.size,
    "jax": jax.__version__,
    "torch": _torch_version(),
    "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
  }


def _torch_version() -> str | None:
  try:
    return importlib.metadata.version("torch")
  except importlib.metadata.PackageNotFoundError:
    return None
