"""Stores the rows of a table, one JSON object in each line of a file."""

import functools
import json
import pathlib
from typing import Any

from miue_jax.experiment import schemas
from miue_jax.machine import documents, files, locks, processes

Row = dict[str, Any]

# Columns of every row that say which cell of the table it belongs to.
KEY = ("dataset", "method", "victim", "defence", "seed")


def key_of(row: Row) -> tuple[Any, ...]:
  """Returns the values of the columns `KEY`."""
  return tuple(row[column] for column in KEY)


class Rows:
  """Appends rows to a file and reads them; without a file, keeps them in memory.

  Several programs may append to one file. A kill can cut off the last line: a line without a
  newline does not count, and the next `append` removes it.
  """

  def __init__(self, path: pathlib.Path | None, schema: type = schemas.Result):
    """Takes the file and the `TypedDict` of its rows, which the file is checked against."""
    self._path, self._schema, self._rows = path, schema, []

  def append(self, row: Row) -> None:
    """Adds a row; it is on the disk when this returns.

    Raises:
      UserError: The file cannot be written.
    """
    if self._path is None:
      self._rows.append(row)
    else:
      processes.from_lead(functools.partial(_append, self._path, row))

  def filled(self) -> set[tuple[Any, ...]]:
    """Returns the keys of all rows, as the lead process sees them, on every process."""
    return {tuple(key) for key in processes.from_lead(lambda: [key_of(row) for row in self.read()])}

  def read(self) -> list[Row]:
    """Returns all rows that this process sees; none if there is no file.

    Raises:
      UserError: A complete line, which is named, is not a row.
    """
    if self._path is None:
      return list(self._rows)
    if not files.exists(self._path):
      return []
    return documents.read_lines(self._path, self._schema, "a row of this table")


def _append(path: pathlib.Path, row: Row) -> None:
  with locks.waited_for(path):
    files.append_line(path, json.dumps(row).encode())
