"""Turns a command line into flags and a config, or into one sentence about a mistake."""

import inspect
import os
import pathlib
import re
import runpy
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from miue_jax.machine import surroundings, terminal
from miue_jax.settings.errors import UserError, first_line, unknown

DEFAULT_CONFIG = "configs/digits.py"

_PACKAGE = pathlib.Path(__file__).parent
_STORED = str(_PACKAGE / "experiment" / "stored.py")
_HELP = {"--help", "-help", "-h", "--helpfull", "--helpshort"}
_OVERRIDE = re.compile(r"(--?config\.)([^=\[]+)(=)?(.*)", re.DOTALL)
_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
_QUOTIENT = re.compile(rf"\s*{_NUMBER}\s*/\s*{_NUMBER}\s*")


def run(work: Callable[[], None], description: str) -> None:
  """Parses the flags and calls `work`, or prints the help or the version.

  A `UserError` is printed as one line, and the exit status is 2.

  Args:
    work: The program.
    description: Text of the help before the list of flags.
  """

  def parsed(argv: Sequence[str]) -> list[str]:
    try:
      terminal.require_stdout()
      if _HELP & set(argv):
        terminal.say(_help(description))
        sys.exit()
      if "--version" in argv:
        from miue_jax import __version__

        terminal.say(f"miue-jax {__version__}")
        sys.exit()
      surroundings.check()
      return parse(argv)
    except UserError as error:
      terminal.fail(str(error))

  def main(argv: Sequence[str]) -> None:
    try:
      if len(argv) > 1:
        raise UserError(f"Unknown argument {argv[1]!r}; settings are written --config.key=value.")
      handler = logging.get_absl_handler().python_handler
      handler.setFormatter(terminal.Formatter(handler.formatter))
      work()
    except UserError as error:
      terminal.fail(str(error))

  app.run(main, flags_parser=parsed)


def recipe() -> Any:
  """Returns the `Config` of the flag `--config` and of the flags that override its settings.

  Raises:
    UserError: A setting is unknown or has a value that is not allowed, or the recipe cannot be
      read.
  """
  holder: Any = flags.FLAGS["config"]
  # These imports take seconds, which --help should not cost.
  from miue_jax.machine import files
  from miue_jax.methods import settings_of
  from miue_jax.settings import config

  with files.reported("load", config_flags.get_config_filename(holder)):
    return config.freeze(holder.value.to_dict(), settings_of())


def parse(argv: Sequence[str]) -> list[str]:
  """Parses flags and loads the recipe.

  Returns:
    The program and its positional arguments.

  Raises:
    UserError: A flag, key or recipe is unknown, a value has the wrong type, or a recipe is broken.
  """
  try:
    argv = _located(flags.FLAGS.read_flags_from_files(list(argv), force_gnu=False))
    return flags.FLAGS(_with_numbers(argv, _settings(argv)))
  except UserError:
    raise
  except flags.UnrecognizedFlagError as error:
    hint = f"did you mean --config.{error.flagname}?" if "." in error.flagname else ""
    raise UserError(f"{error}; {hint or '--help lists the flags.'}") from error
  except flags.Error as error:
    raise UserError(_plain(str(error))) from error
  except Exception as error:  # The config flag raises errors of many types.
    raise UserError(f"A flag is wrong ({type(error).__name__}: {first_line(error)}).") from error


def _plain(text: str) -> str:
  """Returns a message of absl as a sentence that does not mention Python."""
  text = re.sub(r"invalid literal for int\(\) with base 10: .*", "it must be a whole number", text)
  text = re.sub(r"could not convert string to float: .*", "it must be a number", text)
  text = re.sub(r"\('Non-boolean argument to boolean flag', .*\)", "it must be True or False", text)
  text = re.sub(
    r"Failed to parse .* as a ConfigDict: .*",
    "it is a group of settings: set each of them, as --config.GROUP.KEY=VALUE does",
    text,
    flags=re.DOTALL,
  )
  text = re.sub(r"value should be one of <(.*)>", lambda m: f"it must be one of {m[1]}", text)
  return f"{text[:1].upper()}{text[1:].replace('|', ', ').rstrip('.')}."


def _help(description: str) -> str:
  """Returns the help: description, and every flag of this package with its default."""
  parts = [f"{description.strip()}\n\nFlags:"]
  for module, defined in flags.FLAGS.flags_by_module_dict().items():
    if module.startswith("absl."):
      continue
    for flag in defined:
      value = ",".join(flag.default) if isinstance(flag.default, list) else flag.default
      default = f" (default: {value})" if value is not None else ""
      lines = (textwrap.fill(line, 94) for line in f"{flag.help}{default}".splitlines())
      parts.append(f"  --{flag.name}\n{textwrap.indent(chr(10).join(lines), '      ')}")
  return "\n".join(parts)


def _settings(argv: Sequence[str]) -> ml_collections.ConfigDict:
  """Returns the settings of the recipe that `argv` names.

  Raises:
    UserError: The recipe raises an error, returns no ConfigDict, or takes no variant.
  """
  path, colon, variant = _value(argv, "config").partition(":")
  try:
    get_config = runpy.run_path(path)["get_config"]
    if colon and not inspect.signature(get_config).parameters:
      raise UserError(f"The recipe {path} takes no method or variant: leave :{variant} out.")
    made = get_config(*([variant] if colon else []))
  except ValueError as error:
    raise UserError(f"Recipe {path}{colon}{variant}: {first_line(error)}.") from error
  except UserError:
    raise
  except BaseException as error:  # A recipe is a program and can raise anything.
    raise UserError(
      f"The recipe {path}{colon}{variant} is wrong ({type(error).__name__}: {first_line(error)}): "
      "correct it."
    ) from error
  if not isinstance(made, ml_collections.ConfigDict):
    raise UserError(
      f"get_config of the recipe {path} returns {type(made).__name__}; it must return an "
      "ml_collections.ConfigDict."
    )
  return made


def _with_numbers(argv: Sequence[str], recipe: ml_collections.ConfigDict) -> list[str]:
  """Returns `argv` with decimal numbers for fractions such as 8/255 in settings that are floats.

  Raises:
    UserError: The recipe does not have a setting, or a fraction is not a number.
  """
  argv = list(argv)
  for i, arg in enumerate(argv[1:], 1):
    if not (found := _OVERRIDE.fullmatch(arg)):
      continue
    start, key, equals, value = found.groups()
    default = _setting(recipe, key, _value(argv, "config"))
    if value and not equals:  # --config.key[0]=value
      continue
    place = i if equals else i + 1
    text = value if equals else argv[place] if place < len(argv) else ""
    if isinstance(default, float) and (quotient := _QUOTIENT.fullmatch(text)):
      over, under = map(float, quotient.groups())
      if not under:
        raise UserError(f"Setting {key} is {text}; it must not be divided by 0.")
      argv[place] = f"{start}{key}={over / under!r}" if equals else repr(over / under)
  return argv


def _setting(recipe: ml_collections.ConfigDict, key: str, name: str) -> Any:
  """Returns the value of a dotted key.

  Raises:
    UserError: The recipe does not have it.
  """
  if key == "method.name":
    raise UserError(
      "A method comes with its settings, so a flag cannot change method.name: name the method "
      f"behind the recipe, as in --config={name.partition(':')[0]}:em."
    )
  section = recipe
  for depth, part in enumerate(parts := key.split("."), 1):
    known = section.keys() if isinstance(section, ml_collections.ConfigDict) else ()
    if part not in known:
      prefix = "".join(f"{name}." for name in parts[: depth - 1])
      raise UserError(unknown(part, sorted(known), prefix))
    section = section[part]
  return section


def _value(argv: Sequence[str], name: str) -> str:
  """Returns the value of the last `--name=value`."""
  return next(arg.partition("=")[2] for arg in reversed(argv) if arg.startswith(f"--{name}="))


def _located(argv: Sequence[str]) -> list[str]:
  """Replaces `configs/NAME.py` by the packaged recipe where the current folder has none.

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
  """Returns the recipe to use without `--config`: that of the workdir, or the default one."""
  text = "\0".join(argv)
  workdirs = re.findall(r"\0--?workdir[=\0]([^\0]+)", text)
  restores = re.search(r"\0--?mode[=\0]restore(\0|$)", text)  # it needs no settings
  if workdirs and not restores:
    from miue_jax.experiment import stored

    if stored.known(workdirs[-1]):
      return f"{_STORED}:{workdirs[-1]}"
  return DEFAULT_CONFIG
