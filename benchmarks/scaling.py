"""How speed follows the number of images and traffic the number of devices: two plots."""

import dataclasses
import pathlib
import time
from collections.abc import Sequence

import jax
import matplotlib
from matplotlib.figure import Figure

from miue_jax.machine import files
from miue_jax.plan import plan, programs
from miue_jax.plan.sizes import Sizes
from miue_jax.plan.stopwatch import Stopwatch
from miue_jax.settings.config import Config

DEVICES = (1, 2, 4, 8)
_STYLE = {
  "axes.grid": True,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "figure.constrained_layout.use": True,
  "font.size": 9,
  "grid.color": "#dddddd",
  "svg.fonttype": "none",
}


def over_images(config: Config, sizes: Sizes, counts: Sequence[int]) -> list[dict[str, float]]:
  """Runs one whole epoch of generation for each number of images, after warm-up.

  Returns:
    For each: `images`, `seconds` of the epoch, and `images_per_second`, where an image counts once
    for the source pass and once for each sign step.
  """
  rows = []
  for count in counts:
    size = dataclasses.replace(sizes, train=count)
    built = programs.build(config, size)
    steps = [built[name] for name in ("source", "delta")]
    watches = [Stopwatch(step) for step in steps]
    began = time.perf_counter()
    for step, watch in zip(steps, watches, strict=True):
      watch.seconds(step.steps)
    seconds = time.perf_counter() - began
    seen = steps[0].steps * steps[0].batch + count * config.method.steps
    rows.append({"images": count, "seconds": seconds, "images_per_second": seen / seconds})
  return rows


def over_devices(config: Config, sizes: Sizes) -> list[dict[str, float]]:
  """Bytes that one device sends in a delta and in a source step, from the compiled programs.

  Devices that do not divide the batches or cannot be had are left out.
  """
  rows = []
  available = max(len(jax.devices()), len(jax.devices("cpu")))
  for count in DEVICES:
    batches = (config.method.batch_size, config.method.source.batch_size)
    if count > available or any(batch % count for batch in batches):
      continue
    with jax.set_mesh(plan.pod(count)):
      built = programs.build(config, sizes)
      sent = {name: built[name].cost().sent for name in ("delta", "source")}
    rows.append({"devices": count, **sent})
  return rows


def draw_images(rows: Sequence[dict[str, float]], path: pathlib.Path) -> None:
  """Draws images per second and time per epoch over the number of images as SVG."""
  with matplotlib.rc_context(_STYLE):
    figure = Figure(figsize=(8, 3))
    left, right = figure.subplots(1, 2)
    counts = [row["images"] for row in rows]
    left.plot(counts, [row["images_per_second"] for row in rows], marker="o")
    left.set_ylabel("images/s")
    right.plot(counts, [row["seconds"] for row in rows], marker="o")
    right.set_ylabel("seconds per epoch")
    for axis in (left, right):
      axis.set_xlabel("training images")
      axis.set_ylim(bottom=0)
      axis.set_xlim(left=0)
    _save(figure, path)


def draw_devices(rows: Sequence[dict[str, float]], path: pathlib.Path) -> None:
  """Draws the traffic of one step over the number of devices as SVG."""
  with matplotlib.rc_context(_STYLE):
    figure = Figure(figsize=(8, 3))
    axes = figure.subplots(1, 2)
    counts = [row["devices"] for row in rows]
    for axis, name in zip(axes, ("delta", "source"), strict=True):
      axis.plot(counts, [row[name] / 1e6 for row in rows], marker="o")
      axis.set_title(f"{name} step", loc="left", fontsize=9)
      axis.set_xlabel("devices")
      axis.set_ylabel("MB sent by a device")
      axis.set_xticks(counts)
      axis.set_ylim(bottom=0)
    _save(figure, path)


def _save(figure: Figure, path: pathlib.Path) -> None:
  with files.replacing(path) as file:
    figure.savefig(file, format="svg", metadata={"Date": None})
