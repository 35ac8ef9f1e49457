"""Measures the peak memory of this program, or of a block of its code."""

import contextlib
import pathlib
import re
import resource
import sys
from collections.abc import Generator

from typing_extensions import TypedDict

from miue_jax.machine import documents, files, processes, reading
from miue_jax.machine.cpu import allocator
from miue_jax.settings.errors import UserError
from miue_jax.settings.schema import Whole

_STATUS = pathlib.Path("/proc/self/status")
_CLEAR = pathlib.Path("/proc/self/clear_refs")
_FEW = 1 << 16  # bytes; files of /proc are small


class _Recorded(TypedDict):
  peak_memory_bytes: Whole


def peak() -> int:
  """Returns the largest resident memory of this process so far, in bytes.

  During and after `recorded` it is that since the beginning of the block.
  """
  # On Linux, ru_maxrss is at least what the process that started this one held then.
  with contextlib.suppress(UserError):
    if found := re.search(r"VmHWM:\s+(\d+) kB", reading.read_bytes(_STATUS, _FEW).decode()):
      return 1024 * int(found[1])
  unit = 1 if sys.platform == "darwin" else 1024
  return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


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
    if processes.is_lead():
      files.make_folder(path.parent)
      files.write_json(path, {"peak_memory_bytes": max(read(path) or 0, peak())})


def read(path: pathlib.Path) -> int | None:
  """Returns the bytes that `recorded` wrote, or None if there is no readable file."""
  with contextlib.suppress(UserError):
    return documents.read_json(path, schema=_Recorded)["peak_memory_bytes"]
  return None
