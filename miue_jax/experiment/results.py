"""Stores the rows of a table, one JSON object in each line of a file."""

import functools
import json
import os
import pathlib
from typing import Any

from miue_jax.machine import files, locks, processes
from miue_jax.settings.errors import UserError

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

  def __init__(self, path: pathlib.Path | None):
    self._path, self._rows = path, []

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
      UserError: A complete line is not a row.
    """
    if self._path is None:
      return list(self._rows)
    if not self._path.exists():
      return []
    with files.reported("read", self._path):
      *lines, _ = self._path.read_bytes().split(b"\n")
    try:
      found = [json.loads(line) for line in lines]
    except ValueError as error:
      raise UserError(f"{self._path} holds a line that is not JSON: delete that line.") from error
    if not all(isinstance(row, dict) and set(KEY) <= set(row) for row in found):
      raise UserError(f"{self._path} holds a line that is not a result: delete that line.")
    return found


def _append(path: pathlib.Path, row: Row) -> None:
  with locks.waited_for(path), files.reported("write", path), open(path, "ab+") as file:
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
    file.write(json.dumps(row).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())
