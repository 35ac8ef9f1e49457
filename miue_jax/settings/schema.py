"""Declares settings: frozen dataclasses whose fields carry their checks.

Pydantic checks types, ranges and choices whenever such a dataclass is made, also by
`dataclasses.replace`. A value that fails raises a `UserError`, whose message is one sentence.
"""

import dataclasses
import functools
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

import numpy as np
import pydantic
import pydantic_core

from miue_jax.settings.errors import SettingError, UserError, unknown

# Types of fields; the check is part of the type. Numbers are finite, by `_CONFIG`.
Positive = Annotated[float, pydantic.Field(gt=0)]
NonNegative = Annotated[float, pydantic.Field(ge=0)]
Fraction = Annotated[float, pydantic.Field(gt=0, le=1)]
# A larger count is a mistake: schedules are lists, and batches and networks must fit into memory.
# Fields that need a lower limit add `at_most`.
Count = Annotated[int, pydantic.Field(ge=1, le=100_000)]
CountOrZero = Annotated[int, pydantic.Field(ge=0, le=100_000)]
# Numbers of images that may exceed the data, because they only limit them.
Limit = Annotated[int, pydantic.Field(ge=0, le=1_000_000_000)]
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**32)]
Percent = Annotated[float, pydantic.Field(ge=0, lt=100)]


def _moderate(value: float) -> float:
  if abs(value) > 1e15:
    raise ValueError("it is too large")
  return value


# Values of JSON files that are not trusted: numbers that statistics and drawings can take, or NaN.
Moderate = Annotated[int | float, pydantic.AfterValidator(_moderate)]
Whole = Annotated[int, pydantic.Field(ge=0, le=2**53)]

_CONFIG = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_Class = TypeVar("_Class", bound=type)


@typing.dataclass_transform(frozen_default=True)
def settings(cls: _Class) -> _Class:
  """Turns a class into a frozen dataclass that raises a `UserError` for a value that fails."""
  made: Any = pydantic.dataclasses.dataclass(cls, frozen=True, config=_CONFIG)
  init = made.__init__

  @functools.wraps(init)
  def checked(self, *args, **values):
    try:
      init(self, *args, **{key: _plain(value) for key, value in values.items()})
    except pydantic.ValidationError as error:
      raise _problems(error, names(made)) from None

  made.__init__ = checked
  return made


def make(kind: type, values: Mapping[str, Any], prefix: str = "") -> Any:
  """Makes a settings dataclass from plain values, as `changed` changes its defaults."""
  return changed(kind(), values, prefix)


def changed(given: Any, changes: Mapping[str, Any], prefix: str = "") -> Any:
  """Returns settings with some fields changed, also those of the settings inside them.

  Args:
    given: An object of a settings dataclass.
    changes: New values by field. A mapping changes only the keys that it names, in settings and in
      dictionaries. Lists become tuples, and NumPy scalars become Python numbers.
    prefix: Prefix of the fields' names in messages, such as `"method."`.

  Raises:
    UserError: A field is unknown, or a value has the wrong type or is out of range. The message
      names the first unknown field, or else all fields with such values.
  """
  known = names(type(given))
  for key in changes:
    if key not in known:
      raise UserError(unknown(key, known, prefix))
  made, problems = {}, []
  for key, value in changes.items():
    inside = dataclasses.is_dataclass(old := getattr(given, key)) and isinstance(value, Mapping)
    try:
      made[key] = changed(old, value, f"{prefix}{key}.") if inside else merged(old, value)
    except SettingError as error:  # goes on without the change, so that all problems are found
      problems += error.problems
  try:
    given = dataclasses.replace(given, **made)
  except SettingError as error:
    problems += [(prefix + key, problem) for key, problem in error.problems]
  if problems:
    raise SettingError(*problems)
  return given


def merged(old: Any, new: Any) -> Any:
  """Returns `new`, or the keys of both where both are mappings."""
  if not isinstance(old, Mapping) or not isinstance(new, Mapping):
    return new
  return {**old, **{key: merged(old.get(key), value) for key, value in new.items()}}


def require(fine: bool, key: str, value: Any, allowed: str) -> None:
  """Raises an error that names a setting and its allowed values, for checks between fields.

  Args:
    fine: Whether the value is allowed.
    key: Name of the field; empty inside the check of one field.
    value: The value of the field.
    allowed: What the field must be, to follow "it must be".
  """
  if not fine:
    context = {"key": key, "value": value, "allowed": allowed}
    raise pydantic_core.PydanticCustomError("setting", "{allowed}", context)


def _budget(epsilon: float) -> float:
  remedy = f": write {epsilon:g}/255" if 1 <= epsilon <= 127 else ""
  require(0 < epsilon <= 127 / 255, "", epsilon, f"in (0, 127/255]{remedy}")
  return epsilon


Epsilon = Annotated[float, pydantic.AfterValidator(_budget)]


def at_most(limit: int) -> Any:
  """Returns the upper limit of an integer field, to be added to its type by `Annotated`."""
  return pydantic.Field(le=limit)


def distinct(values: tuple) -> tuple:
  """Returns `values`, which must have no repetitions, for `pydantic.AfterValidator`."""
  require(len(set(values)) == len(values), "", values, "without repetitions")
  return values


def names(kind: type) -> list[str]:
  """Returns the names of the fields of a settings dataclass."""
  return [field.name for field in dataclasses.fields(kind)]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Returns nested settings by their dotted names."""
  result = {}
  for key, value in values.items():
    if isinstance(value, Mapping):
      result |= flat(value, f"{prefix}{key}.")
    else:
      result[prefix + key] = value
  return result


def _plain(value: Any) -> Any:
  """Returns `value` with tuples for lists and Python numbers for NumPy scalars."""
  if isinstance(value, list | tuple):
    return tuple(_plain(item) for item in value)
  return value.item() if isinstance(value, np.generic) else value


def _problems(error: pydantic.ValidationError, known: Iterable[str]) -> UserError:
  """Returns an error about the first unknown field, or about every field that fails."""
  found = {}
  for problem in error.errors(include_url=False):
    key = str(problem["loc"][0]) if problem["loc"] else ""
    if problem["type"] == "unexpected_keyword_argument":
      return UserError(unknown(key, known))
    key = problem.get("ctx", {}).get("key") or key
    found.setdefault(key, _sentence(problem))
  return SettingError(*found.items())


def _sentence(problem: Mapping[str, Any]) -> str:
  """Returns the rest of a sentence about a wrong value, which begins with "Setting KEY"."""
  value, context = problem["input"], problem.get("ctx", {})
  if problem["type"] == "setting":
    return f"is {short(context['value'])}; it must be {context['allowed']}."
  allowed = problem["msg"].replace("Input should", "it must").replace("String should", "it must")
  allowed = allowed.replace("'", '"')
  allowed = allowed.replace("greater than or equal to", "at least")
  allowed = allowed.replace("less than or equal to", "at most")
  if problem["type"] == "too_short":
    allowed = "it must have at least one entry"
  if problem["type"].startswith("dataclass"):
    allowed = f"it must be a dict of settings that differ, or a {context['class_name']}"
  if problem["type"].endswith("_type"):
    return f"is {short(value)} ({type(value).__name__}); {allowed}."
  return f"is {short(value)}; {allowed}."


def short(value: Any) -> str:
  """Returns the text of a value for a message, at most about 100 characters."""
  text = repr(value)
  return text if len(text) <= 100 else f"{text[:100]}..."
