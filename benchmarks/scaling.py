"""Measures speed over the number of images and traffic over the number of devices."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence

import jax
import matplotlib
from matplotlib.figure import Figure

from miue_jax.machine import files
from miue_jax.plan import plan, programs
from miue_jax.plan.sizes import Sizes
from miue_jax.plan.stopwatch import Stopwatch
from miue_jax.settings.config import Config

DEVICES = (1, 2, 4, 8)
_STYLE = {"axes.grid": True, "figure.constrained_layout.use": True, "svg.fonttype": "none"}

Rows = Sequence[Mapping[str, float]]


def over_images(config: Config, sizes: Sizes, counts: Sequence[int]) -> list[dict[str, float]]:
  """Runs one segment of every phase of the method for each number of images, after warm-up.

  Returns:
    `images`, `seconds` of the segments, such as an epoch of source training and of sign steps, and
    `images_per_second`, which counts an image once for each pass over it.
  """
  rows = []
  for count in counts:
    built = programs.build(config, dataclasses.replace(sizes, train=count))
    phases = [built[name] for name in programs.generation(built)]
    watches = [Stopwatch(phase) for phase in phases]
    began = time.perf_counter()
    for phase, watch in zip(phases, watches, strict=True):
      watch.seconds(phase.steps)
    seconds = time.perf_counter() - began
    seen = count * sum(phase.passes for phase in phases)
    rows.append({"images": count, "seconds": seconds, "images_per_second": seen / seconds})
  return rows


def over_devices(config: Config, sizes: Sizes) -> list[dict[str, float]]:
  """Counts the bytes that one device sends in each step, from the compiled programs.

  Returns:
    `devices`, and bytes by phase of the method. Numbers of devices that do not divide the batches,
    or that this machine cannot provide, are left out.
  """
  rows = []
  available = max(len(jax.devices()), len(jax.devices("cpu")))
  for count in DEVICES:
    if count > available or any(batch % count for batch in config.batch_sizes):
      continue
    with jax.set_mesh(plan.pod(count)):
      built = programs.build(config, sizes)
      sent = {name: built[name].cost().sent for name in programs.generation(built)}
    rows.append({"devices": count, **sent})
  return rows


def draw(images: Rows, devices: Rows, folder: pathlib.Path) -> None:
  """Draws the rows of `over_images` and `over_devices` as `images.svg` and `devices.svg`."""
  panels = {
    "images/s": [row["images_per_second"] for row in images],
    "seconds": [row["seconds"] for row in images],
  }
  _draw("training images", [row["images"] for row in images], panels, folder / "images.svg")
  panels = {
    f"MB sent by a device, {name} step": [row[name] / 1e6 for row in devices]
    for name in devices[0]
    if name != "devices"
  }
  _draw("devices", [row["devices"] for row in devices], panels, folder / "devices.svg")


def _draw(
  label: str, x: Sequence[float], panels: Mapping[str, Sequence[float]], path: pathlib.Path
) -> None:
  with matplotlib.rc_context(_STYLE):
    figure = Figure(figsize=(8, 3))
    for axis, (name, y) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
      axis.plot(x, y, marker="o")
      axis.set(xlabel=label, ylabel=name, xlim=(0, None), ylim=(0, None))
    with files.replacing(path) as file:
      figure.savefig(file, format="svg", metadata={"Date": None})
