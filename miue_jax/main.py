"""`python -m miue_jax.main --config=configs/digits.py --workdir=DIR --mode=MODE`.

Flags -> config -> stages. Exit status: 0 done; 2 something the user can put right, said in one
sentence; 128 + signal number after SIGINT or SIGTERM, with the state saved: the same command
continues.
"""

import os
import pathlib
import shlex
import signal
import sys
from collections.abc import Sequence

from absl import app, flags, logging
from ml_collections import config_flags

from miue_jax import command_line, files
from miue_jax import config as configs
from miue_jax.errors import UserError

MODES = ("run", "generate", "evaluate", "measure", "report", "export", "restore")
FORMATS = ("png", "npz")

# `command_line.parse` supplies the default: here it would be loaded, and overridden, on import.
_CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  f"Recipe and perhaps variant: configs/cifar10.py:parity; else {command_line.DEFAULT_CONFIG}.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this experiment; else runs/NAME.")
_MODE = flags.DEFINE_enum(
  "mode", "run", MODES, "run = generate, evaluate, measure, report; or one stage alone."
)
_IMAGES = flags.DEFINE_string("images", None, "restore: the export to undo; WORKDIR/images.")
_OUTPUT = flags.DEFINE_string(
  "output", None, "export, restore: a new folder; WORKDIR/images, WORKDIR/restored."
)
_FORMAT = flags.DEFINE_multi_enum("format", ["png"], FORMATS, "export: png, npz, or both.")


def main(argv: Sequence[str]) -> None:
  """Runs one mode; leaves through `SystemExit` as the module's docstring says."""
  if len(argv) > 1:
    _fail(f"Unknown argument {argv[1]!r}; settings are written --config.key=value.")
  try:
    _run()
  except UserError as error:
    _fail(str(error))


def _run() -> None:
  with files.reported("load", config_flags.get_config_filename(flags.FLAGS["config"])):
    config = configs.freeze(_CONFIG.value)

  # Only now: they take seconds, which a mistaken flag should not cost.
  from miue_jax import progress, runtime, stages, workdir

  root = pathlib.Path(_WORKDIR.value or pathlib.Path("runs") / config.name)
  if _MODE.value == "restore":
    folder = workdir.Workdir(root)
    print(f"Restored images: {stages.restore(folder, *map(_path, (_IMAGES.value, _OUTPUT.value)))}")
    return
  folder = workdir.open_workdir(root, config)
  needs_test = _MODE.value not in ("generate", "export")
  with progress.logged_to(folder.log):
    try:
      experiment = stages.start(config, folder, _command(), need_test=needs_test)
      _stages(experiment, stages)
    except runtime.Interrupted as stop:
      logging.info("%s: saved in %s; the same command continues.", stop, folder.checkpoints)
      sys.exit(128 + stop.signum)


def _stages(experiment, stages) -> None:
  mode = _MODE.value
  if mode in ("run", "generate"):
    stages.generate(experiment)
  if mode in ("run", "evaluate"):
    stages.evaluate(experiment)
  if mode in ("run", "measure"):
    stages.measure(experiment)
  if mode in ("run", "report"):
    print(stages.write_report(experiment))
    print(f"Report: {experiment.workdir.report / 'index.html'}")
  if mode == "export":
    print(f"Exported images: {stages.export(experiment, _path(_OUTPUT.value), _FORMAT.value)}")


def _path(text: str | None) -> pathlib.Path | None:
  return pathlib.Path(text) if text else None


def _command() -> str:
  return shlex.join(["python", "-m", "miue_jax.main", *sys.argv[1:]])


def _leave(signum: int, frame) -> None:
  """Handles a signal where there is nothing to save; `runtime.stop_on_signal` guards the rest."""
  # SystemExit, because `except Exception` does not swallow it; os.write, because a log call may be
  # what the signal interrupted.
  os.write(2, f"miue-jax: {signal.Signals(signum).name}; what was finished is kept.\n".encode())
  sys.exit(128 + signum)


def _fail(message: str) -> None:
  print(f"miue-jax: {message}", file=sys.stderr)
  sys.exit(2)


def _parse(argv: Sequence[str]) -> list[str]:
  try:
    return command_line.parse(argv)
  except UserError as error:
    _fail(str(error))


def console() -> None:
  """Entry point of the command `miue-jax`."""
  for signum in (signal.SIGINT, signal.SIGTERM):
    signal.signal(signum, _leave)
  app.run(main, flags_parser=_parse)


if __name__ == "__main__":
  console()
