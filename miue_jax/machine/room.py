"""Tells how much memory this process can take, and lets its threads share a part of it."""

import contextlib
import os
import pathlib
import resource
import threading
from collections.abc import Generator

from miue_jax.machine import reading
from miue_jax.settings.errors import UserError

_SIZES = pathlib.Path("/proc/self/statm")
_GROUP = pathlib.Path("/sys/fs/cgroup/memory.max")
_FEW = 1 << 16  # bytes; files of /proc are small


def limit() -> int:
  """Returns how many bytes this process can take in addition, at most.

  It is the smallest of the memory of the machine, the limit of the container (Linux) and what the
  limit of the shell (`ulimit -v`) leaves.
  """
  page = os.sysconf("SC_PAGE_SIZE")
  found = [page * os.sysconf("SC_PHYS_PAGES")]
  with contextlib.suppress(UserError, ValueError):  # "max", or another system
    found.append(int(reading.read_bytes(_GROUP, _FEW)))
  allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
  if allowed != resource.RLIM_INFINITY:
    taken = 0
    with contextlib.suppress(UserError):
      taken = page * int(reading.read_bytes(_SIZES, _FEW).split()[0])
    found.append(max(0, allowed - taken))
  return min(found)


class Room:
  """Memory that threads share: one that needs more than is left waits for the others.

  A thread that needs more than the whole size works alone.
  """

  def __init__(self, size: float):
    """Sets the number of bytes to share."""
    self._size, self._taken, self._changed = size, 0, threading.Condition()

  @contextlib.contextmanager
  def take(self, size: int) -> Generator[None]:
    """Waits until `size` bytes are left, and takes them during the block."""
    with self._changed:
      self._changed.wait_for(lambda: not self._taken or self._taken + size <= self._size)
      self._taken += size
    try:
      yield
    finally:
      with self._changed:
        self._taken -= size
        self._changed.notify_all()
