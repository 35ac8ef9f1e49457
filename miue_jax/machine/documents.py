"""Reads JSON and CSV from files that are not trusted, and checks them against a schema.

A schema is a type that pydantic knows, mostly a `TypedDict`. The values that come back are those of
the file, unchanged: the schema only refuses.
"""

import csv
import functools
import io
import json
from collections.abc import Mapping
from typing import Any

import pydantic

from miue_jax.machine import files, reading
from miue_jax.settings.errors import UserError, first_line

# A manifest lists the perturbed images and a table has a row of some kB for each victim.
_LARGEST = 256 * files.MEBIBYTE
_DEEPEST = 50  # objects and lists inside each other
_LARGEST_INTEGER = 2**63


def read_json(
  path: files.Path, advice: str = "delete it to make it again", schema: Any = dict[str, Any]
) -> dict[str, Any]:
  """Reads a JSON object from a file that is not trusted.

  Args:
    path: The file.
    advice: The end of the error message: what to do about a damaged file.
    schema: Type that the object must have.

  Raises:
    UserError: The file cannot be read or does not hold one JSON object of this type.
  """
  try:
    return _parsed(reading.read_bytes(path, _LARGEST), schema)
  except ValueError as error:
    raise UserError(f"{files.shown(path)} is damaged ({error}): {advice}.") from error


def read_lines(path: files.Path, schema: Any, what: str) -> list[dict[str, Any]]:
  """Reads a file with one JSON object in each line; a last line without a newline is ignored.

  Args:
    path: The file.
    schema: Type that every object must have.
    what: What an object is, with its article, for messages.

  Raises:
    UserError: The file cannot be read, or a line, which is named, is not such an object.
  """
  *lines, _ = reading.read_bytes(path, files.LONGEST).split(b"\n")
  rows = []
  for number, line in enumerate(lines, 1):
    try:
      rows.append(_parsed(line, schema))
    except ValueError as error:
      raise UserError(
        f"Line {number} of {files.shown(path)} is not {what} ({error}): delete that line."
      ) from error
  return rows


def read_csv(path: files.Path, columns: list[str], count: int, advice: str) -> list[list[str]]:
  """Reads a table with a header; bytes that are not UTF-8 become lone surrogates.

  Args:
    path: The file.
    columns: The header.
    count: Number of rows after the header.
    advice: The end of the error message: what to do about another table.

  Raises:
    UserError: The file cannot be read or is not such a table.
  """
  text = reading.read_bytes(path, _LARGEST).decode("utf-8", "surrogateescape")
  try:
    header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
  except (csv.Error, ValueError) as error:
    raise UserError(
      f"{files.shown(path)} is not a table ({first_line(error)}): {advice}."
    ) from error
  if header != columns or len(rows) != count:
    raise UserError(
      f"{files.shown(path)} must have the columns {', '.join(columns)} and {count} rows; it has "
      f"{files.shown(', '.join(header)[:100])} and {len(rows)} rows: {advice}."
    )
  return rows


def _parsed(text: bytes, schema: Any) -> dict[str, Any]:
  """Returns the object of a JSON text; a ValueError says in one line why there is none."""
  try:
    content = json.loads(text, parse_int=_integer)
  except RecursionError as error:
    raise ValueError("it is nested too deeply") from error
  except ValueError as error:
    raise ValueError(first_line(error)) from error
  if not isinstance(content, dict):
    raise ValueError("it is not a JSON object")
  _require_shallow(content)
  try:
    _adapter(schema).validate_python(content, strict=True)
  except pydantic.ValidationError as error:
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ").lower()
    raise ValueError(files.shown(f"{place}: {message}"[:200])) from error
  return content


@functools.cache
def _adapter(schema: Any) -> pydantic.TypeAdapter:
  return pydantic.TypeAdapter(schema)


def _integer(text: str) -> int:
  value = int(text) if len(text) < 25 else _LARGEST_INTEGER
  if abs(value) >= _LARGEST_INTEGER:
    raise ValueError("it holds an integer of more than 64 bits")
  return value


def _require_shallow(content: Any) -> None:
  """Raises a ValueError if a value is nested too deeply for recursive functions."""
  level = [content]
  for _ in range(_DEEPEST):
    level = [
      item
      for value in level
      for item in (value.values() if isinstance(value, Mapping) else value)
      if isinstance(item, Mapping | list)
    ]
    if not level:
      return
  raise ValueError("it is nested too deeply")
