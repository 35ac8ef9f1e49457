"""Locks on parts of a table that several programs fill together."""

import contextlib
import fcntl
import pathlib
import zlib
from collections.abc import Generator
from typing import BinaryIO

from miue_jax.machine import files, processes


class Locks:
  """Locks on named pieces of work, each on one byte of a shared file.

  They are POSIX locks: the system releases them when the program ends, in whatever way it ends, and
  network file systems support them. A program must make only one `Locks` for a file, because
  closing the file releases all of its locks. The file is open while a block holds or tries a lock.
  """

  def __init__(self, path: pathlib.Path):
    self._path, self._blocks = path, 0
    self._file: BinaryIO | None = None

  @contextlib.contextmanager
  def hold(self, *names: str | int, wait: bool) -> Generator[bool]:
    """Locks a piece of work during the block; yields True if this program holds the lock.

    Args:
      *names: The name of the piece.
      wait: Whether to wait until the lock is free. If False, the block runs without the lock when
        another program holds it, and False is yielded.

    Raises:
      UserError: The file cannot be written.
    """
    place = zlib.crc32(repr(names).encode())
    self._blocks += 1
    try:
      held = processes.from_lead(lambda: self._acquire(place, wait))
      try:
        yield held
      finally:
        if held and self._file:
          fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)
    finally:
      self._blocks -= 1
      if self._file and not self._blocks:
        self._file.close()
        self._file = None

  def _acquire(self, place: int, wait: bool) -> bool:
    if self._file is None:
      self._file = files.open_to_append(self._path)
    try:
      fcntl.lockf(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
    except (BlockingIOError, PermissionError):  # POSIX allows EAGAIN and EACCES.
      return False
    return True
