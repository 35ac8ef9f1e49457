"""Remembers SIGINT and SIGTERM so that a loop can save its state before the program ends."""

import contextlib
import functools
import signal
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax.machine import processes, sharding
from miue_jax.machine.processes import Interrupted

_received: int | None = None


def received() -> int | None:
  """The number of the signal that asked this program to stop, or None.

  A signal to one process counts for all of them, from the same step on: they agree here, so all
  must call this equally often.
  """
  global _received
  if processes.count() > 1:
    mesh = jax.sharding.get_mesh()
    votes = sharding.shard(np.full(mesh.size, _received or 0, np.int32))
    _received = int(sharding.fetch(_largest(mesh)(votes))) or None
  return _received


@functools.lru_cache
def _largest(mesh: jax.sharding.Mesh):
  return jax.jit(jnp.max, out_shardings=jax.NamedSharding(mesh, jax.P()))


@contextlib.contextmanager
def stop_on_signal() -> Iterator[None]:
  """Inside, the first SIGTERM or SIGINT is remembered for `received`; a second one acts at once.

  Raises:
    Interrupted: at the end, when a signal came too late for the block to notice.
  """
  global _received
  _received = None

  def remember(signum, frame):
    global _received
    _received = signum
    for number, handler in previous.items():
      signal.signal(number, handler)

  previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
  for number in previous:
    signal.signal(number, remember)
  try:
    yield
    if (signum := received()) is not None:
      raise Interrupted(signum)
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
    _received = None
