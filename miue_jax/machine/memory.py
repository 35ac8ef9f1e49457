"""Measures the peak memory of a block of code, and what this process may use at most."""

import contextlib
import os
import pathlib
import re
import resource
import threading
from collections.abc import Generator

from typing_extensions import TypedDict

from miue_jax.machine import documents, files, processes, reading
from miue_jax.machine.cpu import allocator
from miue_jax.settings.errors import UserError
from miue_jax.settings.schema import Whole

_STATUS = pathlib.Path("/proc/self/status")
_CLEAR = pathlib.Path("/proc/self/clear_refs")
_SIZES = pathlib.Path("/proc/self/statm")
_GROUP = pathlib.Path("/sys/fs/cgroup/memory.max")
_FEW = 1 << 16  # bytes; files of /proc are small


class _Recorded(TypedDict):
  peak_memory_bytes: Whole


@contextlib.contextmanager
def recorded(path: pathlib.Path) -> Generator[None]:
  """Writes the peak resident memory of this process during the block to `path`, in bytes.

  If the file exists already, the larger value is kept. Nothing is written on systems other than
  Linux.
  """
  allocator.release()
  try:
    _CLEAR.write_text("5")  # Linux then resets the peak: proc_pid_clear_refs(5).
  except OSError:
    yield
    return
  try:
    yield
  finally:
    found = re.search(r"VmHWM:\s+(\d+) kB", reading.read_bytes(_STATUS, _FEW).decode())
    if found and processes.is_lead():
      files.make_folder(path.parent)
      largest = max(read(path) or 0, 1024 * int(found[1]))
      files.write_json(path, {"peak_memory_bytes": largest})


def read(path: pathlib.Path) -> int | None:
  """Returns the bytes that `recorded` wrote, or None if there is no readable file."""
  with contextlib.suppress(UserError):
    return documents.read_json(path, schema=_Recorded)["peak_memory_bytes"]
  return None


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

  A thread that needs more than there is goes on alone.
  """

  def __init__(self, size: float):
    """Makes room for so many bytes."""
    self._size, self._taken, self._changed = size, 0, threading.Condition()

  @contextlib.contextmanager
  def take(self, size: int) -> Generator[None]:
    """Takes so many bytes during the block."""
    with self._changed:
      self._changed.wait_for(lambda: not self._taken or self._taken + size <= self._size)
      self._taken += size
    try:
      yield
    finally:
      with self._changed:
        self._taken -= size
        self._changed.notify_all()
