"""Measures the peak memory of a block of code."""

import contextlib
import pathlib
import re
from collections.abc import Generator

from miue_jax.machine import files, processes
from miue_jax.machine.cpu import allocator
from miue_jax.settings.errors import UserError

_STATUS = pathlib.Path("/proc/self/status")
_CLEAR = pathlib.Path("/proc/self/clear_refs")


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
    found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    if found and processes.is_lead():
      path.parent.mkdir(parents=True, exist_ok=True)
      largest = max(read(path) or 0, 1024 * int(found[1]))
      files.write_json(path, {"peak_memory_bytes": largest})


def read(path: pathlib.Path) -> int | None:
  """Returns the bytes that `recorded` wrote, or None if there is no readable file."""
  with contextlib.suppress(UserError, KeyError, TypeError, ValueError):
    return int(files.read_json(path)["peak_memory_bytes"])
  return None
