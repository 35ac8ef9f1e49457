"""Remembers signals that ask a program to stop, so that a loop can save its state first."""

import contextlib
import functools
import signal
import threading
from collections.abc import Generator

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax.machine import exits, processes, sharding
from miue_jax.machine.processes import Interrupted

_received: int | None = None


def received() -> int | None:
  """Returns the number of the signal that asked this program to stop, or None.

  With several processes, a signal to one of them counts for all, from the same step on. They agree
  on it here, so every process must call this function equally often.
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
def stop_on_signal() -> Generator[None]:
  """Makes the first signal of the block stop its loops; a second one acts at once.

  Signals that are ignored remain so. All are left alone in a thread other than the main one, where
  Python allows no handlers.

  Raises:
    Interrupted: At the end of the block, if a signal arrived too late for the block to notice.
  """
  global _received
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  handlers = {number: signal.getsignal(number) for number in exits.STOPPING}
  # A handler of C code is None and could not be installed again.
  previous = {
    n: handler for n, handler in handlers.items() if handler not in (None, signal.SIG_IGN)
  }
  _received = None

  def remember(signum, frame):
    global _received
    _received = signum
    install()

  def install():
    for number, handler in previous.items():
      signal.signal(number, handler)

  for number in previous:
    signal.signal(number, remember)
  try:
    yield
    if (signum := received()) is not None:
      raise Interrupted(signum)
  except Interrupted:
    _received = None
    raise
  finally:
    install()
    late, _received = _received, None
    # It came after the last question, or with an error that does not end the program.
    if late is not None:
      signal.raise_signal(late)
