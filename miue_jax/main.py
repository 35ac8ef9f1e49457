"""`python -m miue_jax.main --config=configs/digits.py --workdir=DIR --mode=MODE`.

Flags -> config -> stages. Exit status: 0 done; 2 something the user can put right, said in one
sentence; 128 + signal number after SIGINT or SIGTERM, with the state saved: the same command
continues.
"""

import contextlib
import difflib
import os
import pathlib
import re
import shlex
import signal
import sys
from collections.abc import Sequence

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from miue_jax import config as configs
from miue_jax import files
from miue_jax.errors import UserError

MODES = ("run", "generate", "evaluate", "measure", "report", "export", "restore")
FORMATS = ("png", "npz")

_PACKAGE = pathlib.Path(__file__).parent
_DEFAULT_CONFIG = "configs/digits.py"

# Its default is `_found`'s business: here it would be loaded, and --config.key parsed, on import.
_CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  f"Recipe, perhaps with a variant (configs/cifar10.py:parity); else {_DEFAULT_CONFIG}.",
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

  from miue_jax import runtime, stages, workdir  # seconds, which a mistaken flag should not cost

  root = pathlib.Path(_WORKDIR.value or pathlib.Path("runs") / config.name)
  if _MODE.value == "restore":
    folder = workdir.Workdir(root)
    print(f"Restored images: {stages.restore(folder, *map(_path, (_IMAGES.value, _OUTPUT.value)))}")
    return
  folder = workdir.open_workdir(root, config)
  needs_test = _MODE.value not in ("generate", "export")
  with _logged_to(folder.log):
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


@contextlib.contextmanager
def _logged_to(path: pathlib.Path):
  """Writes this package's log lines and all warnings to `path` as well as to the terminal."""
  with files.reported("write", path):
    stream = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed with the handler)
  handler = logging.PythonHandler(stream)
  # A full disk is for the results to report; the log must not add a traceback to each line.
  handler.handleError = lambda record: None
  for target in (handler, logging.get_absl_handler().python_handler):
    target.addFilter(_ours)
  logger = logging.get_absl_logger()
  logger.addHandler(handler)
  try:
    yield
  finally:
    logger.removeHandler(handler)
    with contextlib.suppress(OSError):
      stream.close()


def _ours(record) -> bool:
  """Libraries log to absl's logger, too: keep what they say at INFO out of the way.

  And their tracebacks: the exception itself arrives here and is reported.
  """
  warning = record.levelno >= logging.logging.WARNING and not record.exc_info
  return warning or record.pathname.startswith(str(_PACKAGE))


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
  """Parses flags; a mistake gets one sentence and exit status 2."""
  try:
    _check_keys(argv)
    return flags.FLAGS(_found(argv))
  except flags.UnrecognizedFlagError as error:
    _fail(f"{error}; --help lists the flags.")
  except (flags.Error, UserError) as error:
    # What a recipe raises comes with its traceback, whose last line says what is wrong.
    text = re.sub(r"Error whilst parsing config file:.*\n", "", str(error).strip(), flags=re.DOTALL)
    _fail(" ".join(text.split()))
  except Exception as error:  # A recipe is a program: it can raise anything.
    _fail(f"The recipe or a flag is wrong ({type(error).__name__}: {error}): correct it.")


def _check_keys(argv: Sequence[str]) -> None:
  """Raises a UserError for a `--config.key` that no recipe has."""
  for arg in argv[1:]:
    found = re.match(r"--?config\.([^=\[]+)", arg)
    settings, path = configs.default(), found[1].split(".") if found else []
    for depth, key in enumerate(path, 1):
      if not isinstance(settings, ml_collections.ConfigDict) or key not in settings:
        known = settings.keys() if isinstance(settings, ml_collections.ConfigDict) else ()
        close = difflib.get_close_matches(key, known, n=1) or sorted(known)
        hint = f"known here: {', '.join(close)}" if close else "it has no keys below it"
        raise UserError(f"Unknown config key {'.'.join(path[:depth])}; {hint}.")
      settings = settings[key]


def _found(argv: Sequence[str]) -> list[str]:
  """Lets `configs/NAME.py` mean the packaged recipe where the current folder has none.

  Raises:
    UserError: there is no such recipe at all.
  """
  argv = list(argv)
  for i in range(len(argv) - 2, 0, -1):
    if argv[i] in ("--config", "-config"):
      argv[i : i + 2] = [f"--config={argv[i + 1]}"]
  if not any(arg.split("=")[0] in ("--config", "-config") for arg in argv):
    argv.insert(1, f"--config={_DEFAULT_CONFIG}")
  for i, arg in enumerate(argv):
    name, equals, value = arg.partition("=")
    if name not in ("--config", "-config") or not equals:
      continue
    path, colon, variant = value.partition(":")
    if os.path.isfile(path):
      continue
    relative = pathlib.Path(path).parts[-2:]
    roots = (_PACKAGE, _PACKAGE.parent)  # installed; a checkout
    places = (root.joinpath(*relative) for root in roots)
    found = next((place for place in places if place.is_file()), None)
    if found is None or relative[0] != "configs":
      recipes = sorted({file.stem for root in roots for file in root.glob("configs/*.py")})
      raise UserError(f"There is no recipe {path!r}; known: {', '.join(recipes)}, in configs/.")
    argv[i] = f"--config={found}{colon}{variant}"
  return argv


def console() -> None:
  """Entry point of the command `miue-jax`."""
  for signum in (signal.SIGINT, signal.SIGTERM):
    signal.signal(signum, _leave)
  app.run(main, flags_parser=_parse)


if __name__ == "__main__":
  console()
