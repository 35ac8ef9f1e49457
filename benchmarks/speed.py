"""`python -m benchmarks.speed --config=configs/cifar10.py [--config.key=value]`.

Times the steps of a recipe after warm-up, over repeated runs, on random pixels: no step takes
longer for one image than for another. With PyTorch installed, the delta and the source step are
compared with the same step in eager PyTorch, in alternation; with `--stages=information` the
estimators of mutual information run on samples of fixed sizes, one beside scikit-learn's. Exit
status: 0 done; 2 something the user can put right.
"""

import datetime
import json
import pathlib
import shlex
import signal
import sys
from typing import Any

from absl import flags, logging
from ml_collections import config_flags

from benchmarks import scaling, timing
from benchmarks.timing import PEERS, STAGES, Settings
from miue_jax import command_line
from miue_jax.machine import files, meshes
from miue_jax.plan import plan, sizes
from miue_jax.report import tables
from miue_jax.settings.errors import UserError


def text(results: dict[str, Any]) -> str:
  """The results as Markdown."""
  machine = results["machine"]
  parts = [
    f"{results['config']}: {results['data']} (speed does not depend on pixel values), "
    f"{results['repeats']} runs of each, median (range). {machine['devices']} x "
    f"{machine['device']}, jax {machine['jax']}, {results['date']}."
  ]
  if machine["load_before"] > machine["cores"] / 2:
    parts.append(
      f"Other programs kept {machine['load_before']:.1f} of {machine['cores']} cores busy when "
      "this began: do not trust these figures."
    )
  columns = (
    ("step", False),
    ("batch", True),
    ("images/s", True),
    ("steps/s", True),
    ("compile (s)", True),
    ("TFLOP/s", True),
    ("of bf16 peak", True),
    ("peak memory (MB)", True),
  )
  cells = [
    [
      row["stage"],
      f"{row['batch']:,}",
      _span(row["images_per_second"]),
      _span(row["steps_per_second"]),
      tables.number(row["compile_seconds"], 1),
      tables.MISSING if row["tflops"] is None else f"{row['tflops']:.3g}",
      tables.MISSING if row["peak_share"] is None else f"{100 * row['peak_share']:.1f} %",
      tables.MISSING if row["memory"] is None else f"{row['memory']['bytes'] / 1e6:,.0f}",
    ]
    for row in results["stages"]
  ]
  if cells:
    parts.append(tables.markdown(columns, cells))
  kinds = {row["memory"]["what"] for row in results["stages"] if row["memory"]}
  parts.append(
    f"Memory: {'; '.join(sorted(kinds)) or 'not known'}; largest of this process on the host "
    f"{machine['peak_rss_bytes'] / 1e6:,.0f} MB."
  )
  if results["peers"]:
    columns = (
      ("step", False),
      ("PyTorch", False),
      ("its batch", True),
      ("its images/s", True),
      ("ours / its", True),
    )
    cells = [
      [
        row["stage"],
        row["peer"],
        str(row["batch"]),
        _span(row["images_per_second"]),
        _span(row["ratio"]),
      ]
      for row in results["peers"]
    ]
    parts.append(tables.markdown(columns, cells))
    parts.append(f"Eager PyTorch {machine['torch']}, in alternation with ours, in images/s.")
  elif results["no_peer"]:
    parts.append(f"No comparison with PyTorch: {results['no_peer']}.")
  if results["information"]:
    parts += _information(results["information"])
  if "plan" in results:
    found = results["plan"]
    parts.append(
      f"Plan: {found['predicted']:.1f} s predicted for making the poison, {found['measured']:.1f} "
      f"s measured, measured / predicted {found['ratio']:.2f}."
    )
  for name, axis in (("over_images", "images"), ("over_devices", "devices")):
    if name in results:
      columns = tuple((key, True) for key in results[name][0])
      cells = [[f"{value:,.4g}" for value in row.values()] for row in results[name]]
      parts += [f"Over {axis}:", tables.markdown(columns, cells)]
  return "\n\n".join(parts)


def _information(found: dict[str, Any]) -> list[str]:
  """Seconds of the estimators, and scikit-learn beside them."""
  columns = (("estimate", False), ("samples", True), ("features", True), ("seconds", True))
  cells = [
    [row["estimate"], f"{row['samples']:,}", str(row["features"]), _span(row["seconds"])]
    for row in found["rows"]
  ]
  peer = found["peer"]
  cells.append([peer["name"], *cells[-1][1:3], _span(peer["seconds"])])
  return [
    tables.markdown(columns, cells),
    f"Features of each side. The last two on the same samples, in alternation: {peer['name']} "
    f"{peer['version']} takes {_span(peer['ratio'])} times as long as ours and says "
    f"{peer['nats']['theirs']:.3f} nats, ours {peer['nats']['ours']:.3f}.",
  ]


def _span(values: dict[str, float]) -> str:
  return " ".join([f"{values['median']:.3g}", f"({values['low']:.3g} to {values['high']:.3g})"])


def _define_flags() -> None:
  """Flags of this program; not on import, where they could meet those of `main`."""
  config_flags.DEFINE_config_file("config", None, "Recipe, as for miue_jax.main.")
  flags.DEFINE_list("stages", list(STAGES), f"Of {', '.join(STAGES)}.")
  flags.DEFINE_integer("repeats", Settings.repeats, "Runs of each stage.", lower_bound=1)
  flags.DEFINE_float("seconds", Settings.seconds, "That one run lasts, about.", lower_bound=0)
  flags.DEFINE_integer("images", 0, "Random images; 0: two of the largest batch.", lower_bound=0)
  flags.DEFINE_list("image_shape", None, "Height, width, channels; else those of the data.")
  flags.DEFINE_integer("classes", 0, "Number of classes; 0: of the data.", lower_bound=0)
  flags.DEFINE_enum("peer", "auto", PEERS, "Compare with PyTorch: auto, if it is there.")
  flags.DEFINE_integer("peer_batch", 0, "Of PyTorch in channels_last; 0: ours.", lower_bound=0)
  flags.DEFINE_bool("check_plan", False, "Make a poison and compare its time with the plan's.")
  flags.DEFINE_string("plots", None, "Folder for two plots: over images and over devices.")
  flags.DEFINE_list("scaling", ["500", "1000", "2000", "4000"], "Images, for the first plot.")
  flags.DEFINE_string("output", None, "JSON file for the results.")


def main() -> None:
  """Runs the benchmark and prints its tables.

  Raises:
    UserError: as `timing.run` does, or a flag or a path that cannot be used.
  """
  values, config = flags.FLAGS, command_line.recipe()
  settings = _settings(values)
  logging.set_verbosity(logging.WARNING)  # what libraries say at INFO is no result
  counts = [_count(item) for item in values.scaling]

  if values.plots:
    plan.offer_cpu_devices(max(scaling.DEVICES))
  meshes.start(config.devices, config.batch_sizes)
  results = timing.run(config, settings)
  if values.check_plan:
    results["plan"] = timing.check_plan(config, settings)
  if values.plots:
    folder = pathlib.Path(values.plots)
    with files.reported("write", folder):
      folder.mkdir(parents=True, exist_ok=True)
    size = timing.sizes_for(config, settings)
    results["over_images"] = scaling.over_images(config, size, counts)
    results["over_devices"] = scaling.over_devices(config, size)
    scaling.draw_images(results["over_images"], folder / "images.svg")
    scaling.draw_devices(results["over_devices"], folder / "devices.svg")
  results["command"] = shlex.join(["python", "-m", "benchmarks.speed", *sys.argv[1:]])
  results["date"] = datetime.date.today().isoformat()
  print(text(results))
  if values.output:
    with files.replacing(values.output) as file:
      file.write(json.dumps(results, indent=2).encode())


def _settings(values: Any) -> Settings:
  unknown = sorted(set(values.stages) - set(STAGES))
  if unknown:
    raise UserError(f"Unknown stage {unknown[0]!r} in --stages; known: {', '.join(STAGES)}.")
  return Settings(
    stages=tuple(values.stages),
    repeats=values.repeats,
    seconds=values.seconds,
    images=values.images,
    image_shape=sizes.image_shape(values.image_shape),
    classes=values.classes,
    peer=values.peer,
    peer_batch=values.peer_batch,
  )


def _count(item: str) -> int:
  if not item.isdecimal() or int(item) < 1:
    raise UserError(f"--scaling holds {item!r}; it takes numbers of images, with commas between.")
  return int(item)


def _leave(signum: int, frame) -> None:
  sys.exit(128 + signum)


def console() -> None:
  """Entry point of `python -m benchmarks.speed`."""
  for signum in (signal.SIGINT, signal.SIGTERM):
    signal.signal(signum, _leave)
  _define_flags()
  command_line.run(main)


if __name__ == "__main__":
  console()
