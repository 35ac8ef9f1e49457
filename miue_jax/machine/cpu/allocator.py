"""Makes the C library keep the memory that XLA frees, so that the next step can reuse it."""

import ctypes
import functools
import platform
from collections.abc import Callable, Iterator
from typing import Any

import jax

from miue_jax.machine import cpu

_HEAP_BYTES = 2**26  # glibc's HEAP_MAX_SIZE, the size of a heap of a thread
_BLOCK_MAX = _HEAP_BYTES - 2**20  # the largest block; glibc needs the rest of a heap
_HEAP_OPTION = "xla_multiheap_size_constraint_per_heap"  # of XLA's compiler


def keep(devices: int) -> None:
  """Makes glibc keep freed memory; changes nothing for other C libraries.

  XLA allocates memory for every step. By default, glibc requests large blocks from the system and
  returns them page by page. That takes a third of the time of a step of a ResNet-18.

  One CPU device works in one thread. It gets one arena, which can hold blocks of any size. With
  several devices, the threads would wait for the lock of that arena at each of the many products of
  a step, so every thread keeps an arena. Such an arena consists of heaps. They are never returned
  if the padding is at least as large as a heap. A block that does not fit into a heap still comes
  from the system; `jitted` avoids such blocks.

  Args:
    devices: Number of devices of this process.
  """
  if glibc := _glibc():
    arena_max, mmap_max, top_pad, trim_threshold = -8, -4, -2, -1  # from malloc.h
    kind = (top_pad, _HEAP_BYTES) if devices > 1 else (arena_max, 1)
    for parameter, value in (kind, (mmap_max, 0), (trim_threshold, -1)):
      glibc.mallopt(parameter, value)


def release() -> None:
  """Returns the memory that glibc keeps to the system."""
  if glibc := _glibc():
    glibc.malloc_trim(0)


def jitted(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
  """Jits a function for arguments like these; the first one is donated.

  On several CPU devices XLA is told to allocate in blocks that fit into a heap of glibc. By default
  it allocates one block for a step, which the system clears for every step if it exceeds a heap.
  XLA cannot store a program with several blocks: jax's compilation cache, which is off by default,
  warns and skips it.
  """
  jit = functools.partial(jax.jit, function, donate_argnums=0)
  options = _heap_options()
  # XLA warns about every array that does not fit. jax reuses this trace later.
  if options and max(_sizes(jit().trace(*arguments).jaxpr), default=0) <= _BLOCK_MAX:
    return jit(compiler_options=options)
  return jit()


@functools.cache
def _glibc() -> ctypes.CDLL | None:
  """Returns the C library if it is glibc; cached, because the check reads the interpreter."""
  return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


@functools.cache
def _heap_options() -> dict[str, int] | None:
  """Returns compiler options for small blocks, or None if XLA's default is better."""
  if not cpu.in_use() or jax.local_device_count() == 1 or not _glibc():
    return None
  options = {_HEAP_OPTION: _BLOCK_MAX}
  try:  # The option is not documented: without it, a later XLA is only slower.
    jax.jit(lambda: 0, compiler_options=options).lower().compile()
  except Exception:
    return None
  return options


def _sizes(jaxpr: Any) -> Iterator[int]:
  """Yields the bytes of every array that a jaxpr makes on one device."""
  for equation in jaxpr.eqns:
    # Updates happen in place. The results of a shard_map belong to all devices.
    if equation.primitive.name not in ("scatter", "dynamic_update_slice", "shard_map"):
      yield from (x.aval.size * x.aval.dtype.itemsize for x in equation.outvars)
    for value in jax.tree.leaves(list(equation.params.values())):
      if hasattr(value, "eqns"):
        yield from _sizes(value)
