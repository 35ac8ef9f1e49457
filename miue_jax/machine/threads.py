"""Does work in threads on all cores; NumPy, Pillow, zlib and hashlib release Python's lock."""

import concurrent.futures
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

_BLOCK = 256  # items that wait for a thread; a million futures at once would take gigabytes

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
  """Returns the number of cores of this process, which may be fewer than the machine has."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(work: Callable[[Item], Result], items: Sequence[Item] | np.ndarray) -> Iterator[Result]:
  """Yields `work(item)` for all items, in their order."""
  pool = concurrent.futures.ThreadPoolExecutor(cores())
  try:
    for start in range(0, len(items), _BLOCK):
      yield from pool.map(work, items[start : start + _BLOCK])
  finally:
    pool.shutdown(cancel_futures=True)  # Ctrl-C must not wait for the rest of the block.
