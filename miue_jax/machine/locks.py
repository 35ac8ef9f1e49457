"""Who does what, among programs that fill one table: locks that end with their holder."""

import contextlib
import fcntl
import pathlib
import zlib
from collections.abc import Iterator

from miue_jax.machine import files, processes


class Claims:
  """Locks on named pieces of work, one byte of a file for each.

  POSIX locks: the system drops them when the program ends, however it ends, and network file
  systems know them. A program must make one object alone for a file, as closing that file would
  drop every lock on it.
  """

  def __init__(self, path: pathlib.Path):
    self._file = None
    if processes.is_lead():
      with files.reported("write", path):
        self._file = open(path, "ab")  # noqa: SIM115

  @contextlib.contextmanager
  def claim(self, *names: str | int, wait: bool) -> Iterator[bool]:
    """Inside, no other program has this piece of work, if it yields True.

    Args:
      names: of the piece.
      wait: until it is free; else it yields False where another program has it.
    """
    place = zlib.crc32(repr(names).encode())
    taken = processes.from_lead(lambda: self._take(place, wait))
    try:
      yield taken
    finally:
      if taken and self._file:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)

  def _take(self, place: int, wait: bool) -> bool:
    try:
      fcntl.lockf(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, POSIX says
      return False
    return True
