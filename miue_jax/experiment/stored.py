"""Provides the recipe `stored.py:WORKDIR`: the settings that a workdir was made with.

The command line uses it where `--workdir` names a finished or begun experiment and `--config` is
not given.
"""

import pathlib
from typing import Any

import ml_collections

from miue_jax.machine import documents, files
from miue_jax.settings.errors import UserError

_PLACES = ("config.json", "poison/manifest.json")


def known(workdir: str) -> bool:
  """Returns whether a folder holds its settings."""
  try:
    return any(files.is_file(pathlib.Path(workdir) / name) for name in _PLACES)
  except UserError:
    return False  # It is reported when the workdir is opened.


def get_config(workdir: str) -> ml_collections.ConfigDict:
  """Returns the settings of a workdir.

  Raises:
    UserError: They are damaged.
  """
  path = next(p for name in _PLACES if files.is_file(p := pathlib.Path(workdir) / name))
  settings = documents.read_json(path, "name the recipe with --config").get("config")
  if not isinstance(settings, dict) or not isinstance(settings.get("method"), dict):
    raise UserError(f"{path} does not hold the settings of {workdir}: name the recipe, --config.")
  return ml_collections.ConfigDict(_tuples(settings))


def _tuples(value: Any) -> Any:
  """Returns a JSON value with tuples in place of lists, as recipes have them."""
  if isinstance(value, dict):
    return {key: _tuples(item) for key, item in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value
