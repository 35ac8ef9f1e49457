"""Repeats a step: on the device where loops are fast there, else from Python."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax.machine import sharding, signals
from miue_jax.machine.cpu import allocator

# Steps per dispatch where the loop runs on the device: long enough to hide the dispatch, short
# enough that a signal is answered within seconds.
_CHUNK = 64

Step = Callable[[Any, Any, jax.Array], Any]


def loops_on_device() -> bool:
  """Whether loops belong into the compiled program.

  XLA's CPU backend runs convolutions there many times slower than outside (measured: 2.18 s instead
  of 0.11 s for a small training step).
  """
  return jax.sharding.get_mesh().devices.flat[0].platform != "cpu"


def iterated(body: Callable[[Any], Any], x: Any, times: int) -> Any:
  """Applies `body` so many times inside a step: a loop, or unrolled where loops are slow.

  Unlike `loops_on_device` this can be asked while a step is traced.
  """
  if jax.default_backend() != "cpu":
    return jax.lax.fori_loop(0, times, lambda _, x: body(x), x)
  for _ in range(times):
    x = body(x)
  return x


def repeated(step: Step) -> Callable[..., tuple[Any, int]]:
  """Turns `step(carry, constants, index) -> carry` into a loop over indices.

  A chunk of steps is one loop on the device; where such loops are slow, the jitted step is
  dispatched from Python. The carry is donated either way.

  Returns:
    `run(carry, constants, start, stop, tick) -> (carry, reached)`, where `reached < stop` after a
    signal and `tick(index)` is called now and then with the steps done.
  """
  on_device = loops_on_device()
  chunk = _CHUNK if on_device else 1

  def advance(carry, constants, first, stop):
    if not on_device:
      return step(carry, constants, first), first + 1
    last = jnp.minimum(first + chunk, stop)
    return jax.lax.fori_loop(first, last, lambda i, c: step(c, constants, i), carry), last

  jitted = None  # for the first arguments; later ones are of the same shapes, more or less

  def run(carry, constants, start, stop, tick=lambda index: None):
    nonlocal jitted
    bounds = (np.int32(start), np.int32(stop))
    first, last = bounds if jax.sharding.get_mesh().empty else sharding.replicate(bounds)
    while start < stop and signals.received() is None:
      jitted = jitted or allocator.jitted(advance, carry, constants, first, last)
      carry, first = jitted(carry, constants, first, last)
      jax.block_until_ready(carry)
      start = min(start + chunk, stop)
      tick(start)
    return carry, start

  return run
