"""`python -m miue_jax.main --config=configs/digits.py --workdir=DIR --mode=MODE`.

Flags -> config -> stages. Exit status: 0 done; 2 something the user can put right, said in one
sentence; 3 another process died or cannot be reached any more; 128 + signal number after SIGINT,
SIGTERM or SIGHUP, with the state saved: after these, the same command continues.
"""

from miue_jax.machine import exits, surroundings

if __name__ == "__main__":
  exits.catch()  # before the imports below, which take a second
  surroundings.prepare()

import dataclasses
import pathlib
import shlex
import sys

from absl import flags, logging
from ml_collections import config_flags

from miue_jax import command_line
from miue_jax.settings import config as configs
from miue_jax.settings import schema
from miue_jax.settings.errors import UserError

MODES = (
  "run",
  "generate",
  "evaluate",
  "measure",
  "report",
  "export",
  "restore",
  "plan",
  "compare",
  "pretrain",
)
FORMATS = ("png", "npz")

# `command_line.parse` supplies the default: here it would be loaded, and overridden, on import.
config_flags.DEFINE_config_file(
  "config",
  None,
  f"Recipe and perhaps variant: configs/cifar10.py:parity; else {command_line.DEFAULT_CONFIG}.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this experiment; else runs/NAME.")
_MODE = flags.DEFINE_enum(
  "mode",
  "run",
  MODES,
  "run = generate, evaluate, measure, report; or one stage alone; plan: what a run will cost; "
  "compare: methods against defences, as config.compare says; pretrain: a victim on clean images.",
)
_IMAGES = flags.DEFINE_string("images", None, "restore: the export to undo; WORKDIR/images.")
_OUTPUT = flags.DEFINE_string(
  "output",
  None,
  "export, restore: a new folder; WORKDIR/images, WORKDIR/restored. measure: a new JSON file. "
  "pretrain: a new .npz of weights for config.victim_fit.start_from; WORKDIR/pretrained.npz.",
)
_FEATURES = flags.DEFINE_string(
  "features",
  None,
  "measure, with --released: FILE.npz or FILE.npz:ARRAY, features [samples, d] of clean images by "
  "any model. No data and no workdir are needed; --config.measure holds the settings.",
)
_RELEASED = flags.DEFINE_string(
  "released", None, "measure: the same of the released images, in the same order."
)
_FORMAT = flags.DEFINE_multi_enum("format", ["png"], FORMATS, "export: png, npz, or both.")
_CHIPS = flags.DEFINE_integer("chips", 1, "plan: for how many chips.")
_PRICE = flags.DEFINE_float("price", None, "plan: of one chip for one hour.")
_SHARE = flags.DEFINE_float("share", 0.4, "plan: of a chip's peak that is reached.")
_IMAGE_SHAPE = flags.DEFINE_list(
  "image_shape", None, "plan: height,width,channels; with the next two, no data is read."
)
_TRAIN_IMAGES = flags.DEFINE_integer("train_images", 0, "plan: how many.")
_CLASSES = flags.DEFINE_integer("classes", 0, "plan: how many.")
_DISTRIBUTED = flags.DEFINE_enum(
  "distributed",
  "auto",
  ("auto", "on", "off"),
  "Connect with the other processes of this run: auto, where a launcher says that there are some.",
)
_TIMEOUT = flags.DEFINE_float(
  "distributed_timeout", 60.0, "Seconds in which all processes must have arrived.", lower_bound=1.0
)


def main() -> None:
  """Runs one mode; leaves through `SystemExit` as the module's docstring says."""
  surroundings.check()
  config = command_line.recipe()
  if _MODE.value == "plan":
    print(_plan(config))
    return
  if _FEATURES.value or _RELEASED.value:
    print(_measured(config))
    return

  # Only now: it takes seconds, which a mistaken flag should not cost.
  from miue_jax.machine import processes

  try:
    with processes.together(_DISTRIBUTED.value, _TIMEOUT.value):
      text = _result(config)
      if processes.is_lead() and text:
        print(text)
  except processes.Interrupted as stop:
    sys.exit(128 + stop.signum)


def _plan(config: configs.Config) -> str:
  from miue_jax.plan import plan, sizes, text

  logging.set_verbosity(logging.WARNING)  # what libraries say at INFO is no result
  options = plan.Options(
    _CHIPS.value,
    _PRICE.value,
    _SHARE.value,
    sizes.image_shape(_IMAGE_SHAPE.value),
    _TRAIN_IMAGES.value,
    _CLASSES.value,
  )
  return text.markdown(plan.make(config, options))


def _measured(config: configs.Config) -> str:
  """Features that somebody brings: one process, no workdir."""
  if _MODE.value != "measure" or not (_FEATURES.value and _RELEASED.value):
    raise UserError("--features and --released belong together, and to --mode=measure.")
  from miue_jax.experiment import stages

  logging.set_verbosity(logging.WARNING)  # as for a plan
  files = _FEATURES.value, _RELEASED.value
  return stages.measure_files(*files, config.measure, _path(_OUTPUT.value))


def _result(config: configs.Config) -> str:
  """Runs the mode, together with the other processes, and returns what to print."""
  from miue_jax.experiment import stages, workdir
  from miue_jax.machine import processes, progress

  mode, root = _MODE.value, pathlib.Path(_WORKDIR.value or pathlib.Path("runs") / config.name)
  settings = {"--mode": mode} | schema.flat(dataclasses.asdict(config))
  processes.require_same(settings, "start all processes with the same flags")
  folder = workdir.open_workdir(root)
  if mode == "restore":
    paths = (_path(_IMAGES.value), _path(_OUTPUT.value))
    return f"Restored images: {stages.restore(folder, *paths)}"
  # A table is filled by several programs, and a report can be written while another one works.
  alone = mode not in ("compare", "report")
  with workdir.occupied(folder, alone), progress.logged_to(folder.log):
    try:
      if mode == "compare":
        return _compare(config, folder)
      checked, made = stages.STAGES[mode]
      experiment = stages.start(
        config,
        folder,
        _command(),
        need_test=mode not in ("generate", "export"),
        needs_poison=mode in ("evaluate", "measure", "export"),
        checked=checked,
        made=made,
      )
      return _staged(experiment, stages)
    except processes.Interrupted as stop:
      logging.info("%s: saved in %s; the same command continues.", stop, folder.checkpoints)
      raise


def _compare(config: configs.Config, folder) -> str:
  from miue_jax.experiment import compare

  table = compare.run(config, folder, _command())
  return f"{table}\nReport: {folder.report / 'compare.html'}"


def _staged(experiment, stages) -> str:
  mode = _MODE.value
  if mode in ("run", "generate"):
    stages.generate(experiment)
  if mode in ("run", "evaluate"):
    stages.evaluate(experiment)
  if mode in ("run", "measure"):
    stages.measure(experiment)
  if mode in ("run", "report"):
    table = stages.write_report(experiment)
    return f"{table}\nReport: {experiment.workdir.report / 'index.html'}"
  if mode == "export":
    return f"Exported images: {stages.export(experiment, _path(_OUTPUT.value), _FORMAT.value)}"
  if mode == "pretrain":
    path, accuracy = stages.pretrain(experiment, _path(_OUTPUT.value))
    return f"Weights of {accuracy:.1f} % clean test accuracy: {path}"
  return ""


def _path(text: str | None) -> pathlib.Path | None:
  return pathlib.Path(text) if text else None


def _command() -> str:
  return shlex.join(["python", "-m", "miue_jax.main", *sys.argv[1:]])


def console() -> None:
  """Runs the program, and leaves it with an exit status."""
  exits.catch()
  surroundings.prepare()
  with exits.output():
    command_line.run(main)


if __name__ == "__main__":
  console()
