"""Applies the changes that a comparison makes for each dataset and each method."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from miue_jax.methods import METHODS
from miue_jax.settings import schema
from miue_jax.settings.config import Config
from miue_jax.settings.errors import SettingError, UserError

_SECTIONS = ("data", "method", "victim", "victim_fit", "evaluate", "measure", "compare")


def for_dataset(config: Config, name: str) -> Config:
  """Returns the settings of the table of one of `compare.datasets`.

  The name of its data is `name`, unless its changes set another one.

  Raises:
    UserError: Its changes have an unknown key or an invalid value.
  """
  alone = dataclasses.replace(config, compare=dataclasses.replace(config.compare, datasets={}))
  named = dataclasses.replace(alone, data=dataclasses.replace(alone.data, name=name))
  prefix, changes = f"compare.datasets.{name}", config.compare.datasets[name]
  _require_dict(prefix, changes, f"a dict of {', '.join(_SECTIONS)}")
  for section in changes:
    if section not in _SECTIONS:
      raise UserError(
        f"Setting {prefix}.{section} changes what all datasets share; a dataset can change only "
        f"{', '.join(_SECTIONS)}."
      )
    _require_dict(f"{prefix}.{section}", changes[section], "a dict of settings")
  made = {
    section: schema.changed(getattr(named, section), values, f"{prefix}.{section}.")
    for section, values in changes.items()
  }
  changed = dataclasses.replace(named, **made)
  if changed.compare.datasets:
    raise UserError(f"Setting {prefix}.compare.datasets: a dataset cannot hold other datasets.")
  return changed


def for_method(config: Config, name: str) -> Config:
  """Returns the settings by which a comparison makes the poison called `name`.

  The method's defaults are changed by `compare.shared`, where it has such settings, and then by its
  recipe.

  Raises:
    UserError: The method is unknown, or its recipe has an unknown key or an invalid value.
  """
  compare, prefix = config.compare, f"compare.recipes.{name}"
  recipe = compare.recipes.get(name, {})
  _require_dict(prefix, recipe, "a dict of settings")
  method = recipe.get("name", name)
  if method not in METHODS:
    known = ", ".join(sorted(METHODS))
    raise UserError(f"Unknown method {method!r} in compare.methods; known: {known}.")
  kind = METHODS[method].settings
  own = schema.names(kind)
  shared = {key: value for key, value in compare.shared.items() if key in own}
  changes = schema.merged(shared, recipe) | {"name": method}
  return dataclasses.replace(config, method=schema.make(kind, changes, f"{prefix}."))


def _require_dict(key: str, value: Any, allowed: str) -> None:
  if not isinstance(value, Mapping):
    raise SettingError((key, f"is {value!r}; it must be {allowed}."))
