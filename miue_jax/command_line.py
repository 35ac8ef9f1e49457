"""What the programs share: what was typed -> flags and config, or one sentence about a mistake."""

import difflib
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from miue_jax.machine import files
from miue_jax.settings import config, validation
from miue_jax.settings.errors import UserError

DEFAULT_CONFIG = "configs/digits.py"

_PACKAGE = pathlib.Path(__file__).parent
_OPEN_KEYS = (
  "config.compare.recipes.",
  "config.compare.datasets.",
)


def run(work: Callable[[], None]) -> None:
  """Parses the flags and does `work`; a `UserError` is printed and ends in exit status 2."""

  def parsed(argv: Sequence[str]) -> list[str]:
    try:
      return parse(argv)
    except UserError as error:
      _fail(str(error))

  def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
      _fail(f"Unknown argument {argv[1]!r}; settings are written --config.key=value.")
    try:
      work()
    except UserError as error:
      _fail(str(error))

  app.run(main, flags_parser=parsed)


def recipe() -> config.Config:
  """The validated settings of the flag `--config`.

  Raises:
    UserError: a value that no stage could work with, or a recipe that cannot be read.
  """
  holder = flags.FLAGS["config"]
  with files.reported("load", config_flags.get_config_filename(holder)):
    return validation.freeze(holder.value)


def _fail(message: str) -> NoReturn:
  print(f"miue-jax: {message}", file=sys.stderr)
  sys.exit(2)


def parse(argv: Sequence[str]) -> list[str]:
  """Parses flags and loads the recipe.

  Args:
    argv: the program and its arguments.

  Returns:
    The program and what is not a flag.

  Raises:
    UserError: an unknown flag, key or recipe, a value of the wrong type, or a broken recipe.
  """
  _check_keys(argv)
  try:
    return flags.FLAGS(_located(argv))
  except UserError:
    raise
  except flags.UnrecognizedFlagError as error:
    raise UserError(f"{error}; --help lists the flags.") from error
  except flags.Error as error:
    # What a recipe raises comes with its traceback, whose last line says what is wrong.
    text = re.sub(r"Error whilst parsing config file:.*\n", "", str(error).strip(), flags=re.DOTALL)
    raise UserError(" ".join(text.split())) from error
  except Exception as error:  # A recipe is a program: it can raise anything.
    hint = ""
    if any(arg.lstrip("-").startswith(_OPEN_KEYS) for arg in argv):
      hint = " Below compare.recipes and compare.datasets a flag changes what is there, no more."
    raise UserError(
      f"The recipe or a flag is wrong ({type(error).__name__}: {error}): correct it.{hint}"
    ) from error


def _check_keys(argv: Sequence[str]) -> None:
  """Raises a UserError for a `--config.key` that no recipe has."""
  for arg in argv[1:]:
    found = re.match(r"--?config\.([^=\[]+)", arg)
    settings, path = config.default(), found[1].split(".") if found else []
    if found and arg.lstrip("-").startswith(_OPEN_KEYS):
      path = path[:2]
    for depth, key in enumerate(path, 1):
      if not isinstance(settings, ml_collections.ConfigDict) or key not in settings:
        known = settings.keys() if isinstance(settings, ml_collections.ConfigDict) else ()
        close = difflib.get_close_matches(key, known, n=1) or sorted(known)
        hint = f"known here: {', '.join(close)}" if close else "it has no keys below it"
        raise UserError(f"Unknown config key {'.'.join(path[:depth])}; {hint}.")
      settings = settings[key]


def _located(argv: Sequence[str]) -> list[str]:
  """Lets `configs/NAME.py` mean the packaged recipe where the current folder has none.

  Raises:
    UserError: there is no such recipe at all.
  """
  argv = list(argv)
  for i in range(len(argv) - 2, 0, -1):
    if argv[i] in ("--config", "-config"):
      argv[i : i + 2] = [f"--config={argv[i + 1]}"]
  if not any(arg.split("=")[0] in ("--config", "-config") for arg in argv):
    argv.insert(1, f"--config={DEFAULT_CONFIG}")
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
