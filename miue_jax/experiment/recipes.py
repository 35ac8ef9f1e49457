"""What the comparison's data sets and methods change in the settings that they share."""

import dataclasses
from typing import Any

from miue_jax.settings import validation
from miue_jax.settings.config import Compare, Config
from miue_jax.settings.errors import UserError
from miue_jax.settings.frozen import frozen

METHOD_SECTIONS = ("model", "source", "method")  # what makes a poison
_DATASET_SECTIONS = (
  "data", *METHOD_SECTIONS, "victim", "victim_fit", "evaluate", "measure", "compare"
)  # fmt: skip


def for_dataset(config: Config, name: str) -> Config:
  """The settings of the table of one of `compare.datasets`; by default its data have its name.

  Raises:
    UserError: its recipe has an unknown key, a value of the wrong type or one that makes no sense.
  """
  alone = dataclasses.replace(config, compare=dataclasses.replace(config.compare, datasets={}))
  named = dataclasses.replace(alone, data=dataclasses.replace(alone.data, name=name))
  prefix = f"compare.datasets.{name}"
  made = _changed(named, config.compare.datasets[name], prefix, _DATASET_SECTIONS)
  if made.compare.datasets:
    raise UserError(f"Config key {prefix}.compare.datasets: a data set holds no others.")
  try:
    validation.validate(made)
  except UserError as error:
    raise UserError(f"Data set {name!r} of the comparison cannot be used: {error}") from error
  return made


def for_method(config: Config, name: str) -> Config:
  """Returns the settings by which a comparison makes the poison called `name`.

  Raises:
    UserError: its recipe has an unknown key, a value of the wrong type or one that makes no sense.
  """
  named = dataclasses.replace(config, method=dataclasses.replace(config.method, name=name))
  recipe = config.compare.recipes.get(name, {})
  made = _changed(named, recipe, f"compare.recipes.{name}", METHOD_SECTIONS)
  try:
    validation.validate(dataclasses.replace(made, compare=Compare()))
  except UserError as error:
    raise UserError(f"Method {name!r} of the comparison cannot be made: {error}") from error
  return made


def _changed(config: Config, recipe: Any, prefix: str, sections: tuple[str, ...]) -> Config:
  """`config` with what a recipe, a dict of sections, says in place of its own."""
  allowed = f"a dict of {', '.join(sections)}"
  validation.require(isinstance(recipe, dict), prefix, recipe, allowed)
  changed = {}
  for section, changes in recipe.items():
    if section not in sections:
      raise UserError(
        f"Config key {prefix}.{section} changes what all share; a recipe has {', '.join(sections)}."
      )
    key = f"{prefix}.{section}"
    validation.require(isinstance(changes, dict), key, changes, "a dict of settings")
    own = getattr(config, section)
    values = dataclasses.asdict(own) | changes
    changed[section] = frozen(type(own), values, f"{key}.")
  return dataclasses.replace(config, **changed)
