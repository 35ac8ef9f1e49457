"""Times the steps of a recipe: `python -m benchmarks.speed --config=configs/cifar10.py`.

The steps run repeatedly after warm-up on random pixels, whose values do not affect the speed. If
PyTorch is installed, the delta and the source step alternate with the same step in eager PyTorch.
Exit status: 0 done; 2 a mistake that the user can correct.
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

from benchmarks import scaling, steps
from benchmarks.steps import PEERS, Settings
from benchmarks.tables import markdown
from miue_jax import command_line
from miue_jax.machine import files, meshes, terminal
from miue_jax.plan.sizes import image_shape
from miue_jax.settings.errors import UserError


def text(results: dict[str, Any]) -> str:
  """Writes the results as Markdown."""
  machine, stages, peers = results["machine"], results["stages"], results["peers"]
  parts = [
    f"{results['config']}: {results['data']} (speed does not depend on pixel values), "
    f"{results['repeats']} runs of each, median (range). {machine['devices']} x "
    f"{machine['device']}, jax {machine['jax']}, {results['date']}."
  ]
  if machine["load_before"] > machine["cores"] / 2:
    parts.append(
      f"Other programs kept {machine['load_before']:.1f} of {machine['cores']} cores busy when "
      "this benchmark began: do not trust these figures."
    )
  if stages:
    parts.append(markdown(stages))
  parts.append(
    "Memory of one device at its peak; largest of this process on the host "
    f"{machine['peak_rss_bytes'] / 1e6:,.0f} MB."
  )
  if peers:
    parts += [markdown(peers), f"PyTorch {machine['torch']}, in alternation with ours."]
  elif results["no_peer"]:
    parts.append(f"No comparison with PyTorch: {results['no_peer']}.")
  if "plan" in results:
    found = results["plan"]
    parts.append(
      f"Plan: {found['predicted']:.1f} s predicted to make the poison, {found['measured']:.1f} s "
      f"measured, measured / predicted {found['ratio']:.2f}."
    )
  for name in ("images", "devices"):
    if rows := results.get(f"over_{name}"):
      parts += [f"Over {name}:", markdown(rows)]
  return "\n\n".join(parts)


def _define_flags() -> None:
  """Defines the flags; not on import, because `miue_jax.main` defines some of the same names."""
  config_flags.DEFINE_config_file("config", None, "Recipe, as for miue_jax.main.")
  flags.DEFINE_list(
    "stages", [], "Steps to time: phases of the method (delta, source, ...), victim, evaluate."
  )
  flags.DEFINE_integer("repeats", Settings.repeats, "Runs of each step.", lower_bound=1)
  flags.DEFINE_float("seconds", Settings.seconds, "Approximate seconds of a run.", lower_bound=0)
  flags.DEFINE_integer(
    "images", 0, "Number of random images; 0 takes two of the largest batch.", lower_bound=0
  )
  flags.DEFINE_list("image_shape", None, "Height, width, channels; by default those of the data.")
  flags.DEFINE_integer("classes", 0, "Number of classes; 0 takes that of the data.", lower_bound=0)
  flags.DEFINE_enum(
    "peer", "auto", PEERS, "Compares with PyTorch: auto where it is installed, torch always."
  )
  flags.DEFINE_integer(
    "peer_batch", 0, "Batch of PyTorch in channels_last; 0 takes ours.", lower_bound=0
  )
  flags.DEFINE_bool("peer_compile", False, "Compares with torch.compile as well, channels_last.")
  flags.DEFINE_bool("check_plan", False, "Makes a poison and compares its time with the plan.")
  flags.DEFINE_string("plots", None, "Folder for two plots: over images and over devices.")
  flags.DEFINE_list("scaling", ["500", "1000", "2000", "4000"], "Images of the first plot.")
  flags.DEFINE_string("output", None, "JSON file to write the results to.")


def main() -> None:
  """Runs the benchmark and prints its tables.

  Raises:
    UserError: A flag or a path cannot be used, or `steps.run` refuses the config.
  """
  values, config = flags.FLAGS, command_line.recipe()
  counts = [_count(item) for item in values.scaling]
  settings = Settings(
    tuple(values.stages),
    values.repeats,
    values.seconds,
    values.peer,
    values.peer_batch,
    values.peer_compile,
  )
  sizes = steps.sizes_for(config, values.images, image_shape(values.image_shape), values.classes)
  logging.set_verbosity(logging.WARNING)  # libraries log at INFO, which is not a result

  offered = max(scaling.DEVICES) if values.plots else 0
  meshes.start(config.devices, config.batch_sizes, offered)
  results = steps.run(config, sizes, settings)
  if values.check_plan:
    results["plan"] = steps.check_plan(config, sizes)
  if values.plots:
    folder = pathlib.Path(values.plots)
    with files.reported("write", folder):
      folder.mkdir(parents=True, exist_ok=True)
    results["over_images"] = scaling.over_images(config, sizes, counts)
    results["over_devices"] = scaling.over_devices(config, sizes)
    scaling.draw(results["over_images"], results["over_devices"], folder)
  results["command"] = shlex.join(["python", "-m", "benchmarks.speed", *sys.argv[1:]])
  results["date"] = datetime.date.today().isoformat()
  terminal.say(text(results))
  if values.output:
    with files.replacing(values.output) as file:
      file.write(json.dumps(results, indent=2).encode())


def _count(item: str) -> int:
  if not item.isdecimal() or int(item) < 1:
    raise UserError(f"--scaling holds {item!r}; give numbers of images with commas between them.")
  return int(item)


def _leave(signum: int, frame) -> None:
  sys.exit(128 + signum)


def console() -> None:
  """Runs the program as `python -m benchmarks.speed`."""
  for signum in (signal.SIGINT, signal.SIGTERM):
    signal.signal(signum, _leave)
  _define_flags()
  command_line.run(main, __doc__ or "")


if __name__ == "__main__":
  console()
