"""What the programs share: what was typed -> flags and config, or one sentence about a mistake."""

import os
import pathlib
import re
import runpy
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from miue_jax.machine import files
from miue_jax.settings import config
from miue_jax.settings.errors import UserError, unknown

DEFAULT_CONFIG = "configs/digits.py"

_PACKAGE = pathlib.Path(__file__).parent
_STORED = str(_PACKAGE / "experiment" / "stored.py")


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
  holder: Any = flags.FLAGS["config"]
  # It takes seconds, which --help should not cost.
  from miue_jax.methods import settings_of

  with files.reported("load", config_flags.get_config_filename(holder)):
    return config.freeze(holder.value.to_dict(), settings_of())


def _fail(message: str) -> NoReturn:
  print(f"miue-jax: {message}", file=sys.stderr)
  sys.exit(2)


def parse(argv: Sequence[str]) -> list[str]:
  """Parses flags and loads the recipe.

  Args:
    argv: The program and its arguments.

  Returns:
    The program and its positional arguments.

  Raises:
    UserError: A flag, key or recipe is unknown, a value has the wrong type, or a recipe is broken.
  """
  if {"--help", "-help", "--helpfull", "--version"} & set(argv):
    return flags.FLAGS(argv)
  argv = _located(argv)
  try:
    _check_keys(argv)
    return flags.FLAGS(argv)
  except UserError:
    raise
  except flags.UnrecognizedFlagError as error:
    raise UserError(f"{error}; --help lists the flags.") from error
  except flags.Error as error:
    # What a recipe raises comes with its traceback, whose last line says what is wrong.
    text = re.sub(r"Error whilst parsing config file:.*\n", "", str(error).strip(), flags=re.DOTALL)
    raise UserError(" ".join(text.split())) from error
  except Exception as error:  # A recipe is a program: it can raise anything.
    raise UserError(
      f"The recipe or a flag is wrong ({type(error).__name__}: {error}): correct it."
    ) from error


def _check_keys(argv: Sequence[str]) -> None:
  """Raises a UserError for a `--config.key` that the recipe does not have."""
  changed = [found[1] for arg in argv[1:] if (found := re.match(r"--?config\.([^=\[]+)", arg))]
  if not changed:
    return
  path, _, variant = _value(argv, "config").partition(":")
  settings = runpy.run_path(path)["get_config"](*([variant] if variant else []))
  for key in changed:
    if key == "method.name":
      raise UserError(
        "A method comes with its settings, so a flag cannot change method.name: name the method "
        f"behind the recipe, as in --config={path}:em."
      )
    section = settings
    for depth, part in enumerate(parts := key.split("."), 1):
      known = section.keys() if isinstance(section, ml_collections.ConfigDict) else ()
      if part not in known:
        prefix = "".join(f"{name}." for name in parts[: depth - 1])
        raise UserError(unknown(part, sorted(known), prefix))
      section = section[part]


def _value(argv: Sequence[str], name: str) -> str:
  """Returns the value of the last `--name=value`."""
  return next(arg.partition("=")[2] for arg in reversed(argv) if arg.startswith(f"--{name}="))


def _located(argv: Sequence[str]) -> list[str]:
  """Lets `configs/NAME.py` mean the packaged recipe where the current folder has none.

  Recipes may import their neighbours and the packaged ones, such as `common`.

  Raises:
    UserError: There is no such recipe at all.
  """
  argv = [re.sub("^-(config)(?==|$)", r"--\1", arg) for arg in argv]
  for i in range(len(argv) - 2, 0, -1):
    if argv[i] == "--config":
      argv[i : i + 2] = [f"--config={argv[i + 1]}"]
  if not any(arg.startswith("--config=") for arg in argv):
    argv.insert(1, f"--config={_default(argv)}")
  roots = (_PACKAGE, _PACKAGE.parent)  # installed; a checkout
  folders = [str(root / "configs") for root in roots if (root / "configs").is_dir()]
  for i, arg in enumerate(argv):
    if not arg.startswith("--config="):
      continue
    path, colon, variant = arg.removeprefix("--config=").partition(":")
    if not os.path.isfile(path):
      relative = pathlib.Path(path).parts[-2:]
      places = (root.joinpath(*relative) for root in roots)
      found = next((place for place in places if place.is_file()), None)
      if found is None or relative[0] != "configs":
        recipes = sorted({file.stem for root in roots for file in root.glob("configs/*.py")})
        known = ", ".join(name for name in recipes if name != "common")
        raise UserError(f"There is no recipe {path!r}; known: {known}, in configs/.")
      path = str(found)
    argv[i] = f"--config={path}{colon}{variant}"
    if path != _STORED:
      folders.insert(0, str(pathlib.Path(path).absolute().parent))
  sys.path.extend(folder for folder in dict.fromkeys(folders) if folder not in sys.path)
  return argv


def _default(argv: Sequence[str]) -> str:
  """Returns the recipe without `--config`: that of the workdir, or the default one."""
  text = "\0".join(argv)
  workdirs = re.findall(r"\0--?workdir[=\0]([^\0]+)", text)
  restores = re.search(r"\0--?mode[=\0]restore(\0|$)", text)  # it needs no settings
  if workdirs and not restores:
    from miue_jax.experiment import stored

    if stored.known(workdirs[-1]):
      return f"{_STORED}:{workdirs[-1]}"
  return DEFAULT_CONFIG
