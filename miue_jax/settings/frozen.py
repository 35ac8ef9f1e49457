"""Plain values, as a recipe or a JSON file holds them -> frozen dataclasses."""

import dataclasses
import difflib
import typing
from typing import Any

from miue_jax.settings.errors import UserError


def frozen(kind: type, values: dict[str, Any], prefix: str) -> Any:
  """Makes a dataclass, and those inside it, from a dict.

  Args:
    kind: the dataclass.
    values: by field; fields that are left out keep their defaults. An int becomes a float and a
      list a tuple where the field is one or has such items.
    prefix: of the field's names in messages.

  Raises:
    UserError: an unknown key or a value of the wrong type.
  """
  fields = {field.name: field for field in dataclasses.fields(kind)}
  for key in values:
    if key not in fields:
      close = difflib.get_close_matches(key, fields, n=1)
      hint = f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(fields)}."
      raise UserError(f"Unknown config key {prefix}{key}; {hint}")
  result = {}
  for key, value in values.items():
    expected = fields[key].type
    if dataclasses.is_dataclass(expected) and isinstance(value, dict):
      value = frozen(expected, value, f"{prefix}{key}.")
    elif expected is float and type(value) is int:
      value = float(value)
    elif isinstance(value, list):
      value = tuple(value)
    if typing.get_args(expected)[:1] == (float,) and isinstance(value, tuple):
      value = tuple(float(item) if type(item) is int else item for item in value)
    if not _fits(value, expected):
      raise UserError(
        f"Config key {prefix}{key} is {value!r} ({type(value).__name__}); expected "
        f"{expected.__name__ if isinstance(expected, type) else expected}."
      )
    result[key] = value
  return kind(**result)


def _fits(value: Any, expected: Any) -> bool:
  """Whether `value` is of the class `expected`, or a tuple of what `tuple[item, ...]` promises."""
  items = typing.get_args(expected)
  if items:
    return type(value) is tuple and all(type(item) is items[0] for item in value)
  return type(value) is expected
