"""How much memory a method takes."""

import contextlib
import json
import pathlib
import re
from collections.abc import Iterator

from miue_jax.experiment import workdir
from miue_jax.machine import processes
from miue_jax.machine.cpu import allocator

_STATUS = pathlib.Path("/proc/self/status")
_CLEAR = pathlib.Path("/proc/self/clear_refs")


@contextlib.contextmanager
def recorded(path: pathlib.Path) -> Iterator[None]:
  """Writes the largest resident memory of this process inside the block to `path`, in bytes.

  The larger value of several sittings stays. Nothing is written where the system cannot tell.
  """
  allocator.release()
  try:
    _CLEAR.write_text("5")  # Linux forgets the largest value so far: proc_pid_clear_refs(5)
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
      workdir.write_json(path, {"peak_memory_bytes": largest})


def read(path: pathlib.Path) -> int | None:
  """What `recorded` wrote; None where it wrote nothing that can be read."""
  with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
    return int(json.loads(path.read_bytes())["peak_memory_bytes"])
  return None
