"""Memory of steps on a CPU: the C library keeps what XLA frees, for the next step to find."""

import ctypes
import functools
import platform
from collections.abc import Callable, Iterator
from typing import Any

import jax

_HEAP_BYTES = 2**26  # glibc's HEAP_MAX_SIZE: a heap of a thread's own
_BLOCK_MAX = _HEAP_BYTES - 2**20  # fits into one beside what glibc notes there
_HEAP_OPTION = "xla_multiheap_size_constraint_per_heap"  # of XLA's compiler


def keep(devices: int) -> None:
  """Has glibc keep memory that is freed; other C libraries are left as they are.

  XLA allocates what a step needs anew for every step. By default blocks that large come from the
  system and go back to it, page by page, which is a third of the time of a step of a ResNet-18.

  One CPU device works in one thread and gets one arena, which may hold blocks of any size. Several
  would wait for its lock at each of the ten thousands of products of a step, so their threads keep
  arenas of their own. Those consist of heaps, never given back as long as the padding is no less
  than a heap, but what does not fit into a heap comes from the system: see `jitted`.

  Args:
    devices: of this process.
  """
  if glibc := _glibc():
    arena_max, mmap_max, top_pad, trim_threshold = -8, -4, -2, -1  # from malloc.h
    kind = (top_pad, _HEAP_BYTES) if devices > 1 else (arena_max, 1)
    for parameter, value in (kind, (mmap_max, 0), (trim_threshold, -1)):
      glibc.mallopt(parameter, value)


def release() -> None:
  """Returns what glibc keeps: memory is scarce, or about to be counted."""
  if glibc := _glibc():
    glibc.malloc_trim(0)


def jitted(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
  """Jits a function for arguments like these, of which the first is donated.

  On several CPU devices XLA allocates in blocks that fit into a heap of glibc. Otherwise what a
  step needs is one block, and one larger than a heap is cleared by the system for every step. XLA
  cannot store a program of several blocks: a cache of programs, which is off by default, warns and
  goes without it.
  """
  jit = functools.partial(jax.jit, function, donate_argnums=0)
  options = _heap_options()
  # XLA warns of every array that does not fit. What is traced here is not traced again later.
  if options and max(_sizes(jit().trace(*arguments).jaxpr), default=0) <= _BLOCK_MAX:
    return jit(compiler_options=options)
  return jit()


@functools.cache
def _glibc() -> ctypes.CDLL | None:
  """The C library, where it is glibc; to find out reads the interpreter's file."""
  return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


@functools.cache
def _heap_options() -> dict[str, int] | None:
  """What to compile a step with, or None where it allocates as usual."""
  if jax.default_backend() != "cpu" or jax.local_device_count() == 1 or not _glibc():
    return None
  options = {_HEAP_OPTION: _BLOCK_MAX}
  try:  # Not a documented option: a later XLA might lack it, and is slower then.
    jax.jit(lambda: 0, compiler_options=options).lower().compile()
  except Exception:
    return None
  return options


def _sizes(jaxpr: Any) -> Iterator[int]:
  """Bytes of every array that one device makes, as far as a jaxpr shows."""
  for equation in jaxpr.eqns:
    # Updates happen in place; the results of a shard_map are those of all devices.
    if equation.primitive.name not in ("scatter", "dynamic_update_slice", "shard_map"):
      yield from (x.aval.size * x.aval.dtype.itemsize for x in equation.outvars)
    for value in jax.tree.leaves(list(equation.params.values())):
      if hasattr(value, "eqns"):
        yield from _sizes(value)
