"""The machine: devices and mesh, random streams, how a step is driven, what a signal does."""

import contextlib
import os
import signal
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from miue_jax.errors import UserError

AXIS = "data"

# Steps per dispatch where the loop runs on the device: long enough to hide the dispatch, short
# enough that a signal is answered within seconds.
_CHUNK = 64


class Interrupted(Exception):  # noqa: N818 (not an error)
  """A signal arrived, the state is saved, the program should leave."""

  def __init__(self, signum: int):
    super().__init__(signal.Signals(signum).name)
    self.signum = signum


def start(devices: int, batch_sizes: tuple[int, ...]) -> jax.sharding.Mesh:
  """Chooses devices, makes the `data` mesh over them and sets it for the program.

  Convolutions of one CPU device use little more than one core, so on a CPU every core becomes a
  device. Must run before any other use of jax.

  Args:
    devices: how many; 0 takes all accelerators, or on a CPU as many cores (at most 8) as divide
      every batch.
    batch_sizes: every global batch must be divisible by the number of devices.

  Raises:
    UserError: more devices asked than there are, or a batch that they do not divide.
  """
  cores = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, 8)
  wanted = devices or max(n for n in range(1, cores + 1) if _divides(n, batch_sizes))
  if "JAX_NUM_CPU_DEVICES" not in os.environ:
    # Refused once a backend runs (a second call in one process); the existing devices then count.
    with contextlib.suppress(RuntimeError):
      jax.config.update("jax_num_cpu_devices", wanted)
  available = jax.devices()
  if devices > len(available):
    raise UserError(
      f"devices={devices} but this machine offers {len(available)} "
      f"({available[0].platform}); ask for at most {len(available)}, or 0 for all."
    )
  count = devices or (wanted if available[0].platform == "cpu" else len(available))
  count = min(count, len(available))
  if not _divides(count, batch_sizes):
    raise UserError(
      f"The batch sizes {sorted(set(batch_sizes))} must be divisible by the {count} devices; "
      "change method.batch_size, source.batch_size or victim_fit.batch_size, or set devices."
    )
  mesh = jax.make_mesh(
    (count,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=available[:count]
  )
  jax.set_mesh(mesh)
  return mesh


def _divides(devices: int, batch_sizes: tuple[int, ...]) -> bool:
  return all(size % devices == 0 for size in batch_sizes)


def shard(tree: Any) -> Any:
  """Spreads the leading axis of every array over the mesh."""
  return jax.device_put(tree, jax.NamedSharding(jax.sharding.get_mesh(), jax.P(AXIS)))


def replicate(tree: Any) -> Any:
  """Puts a copy of every array on each device of the mesh."""
  return jax.device_put(tree, jax.NamedSharding(jax.sharding.get_mesh(), jax.P()))


def stream(seed: int, *path: str | int) -> jax.Array:
  """A random key named by where it is used, e.g. `stream(seed, "victim", 3)`.

  Names enter by their crc32, so that adding a stream never changes another one.
  """
  key = jax.random.key(seed)
  for part in path:
    number = zlib.crc32(part.encode()) if isinstance(part, str) else part
    key = jax.random.fold_in(key, number)
  return key


def example_keys(key: jax.Array, ids: jax.Array) -> jax.Array:
  """One key per example, by its id: the same draw wherever the example lies."""
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, ids)


Step = Callable[[Any, Any, jax.Array], Any]


def repeated(step: Step) -> Callable[..., tuple[Any, int]]:
  """Turns `step(carry, constants, index) -> carry` into a loop over indices.

  XLA's CPU backend runs convolutions inside a device loop many times slower than outside, so there
  the jitted step is dispatched from Python; elsewhere a chunk of steps is one device loop. The
  carry is donated either way.

  Returns:
    `run(carry, constants, start, stop, tick) -> (carry, reached)`, where `reached < stop` after a
    signal and `tick(index)` is called now and then with the steps done.
  """
  on_device = jax.sharding.get_mesh().devices.flat[0].platform != "cpu"
  chunk = _CHUNK if on_device else 1

  def advance(carry, constants, first, last):
    if not on_device:
      return step(carry, constants, first)
    return jax.lax.fori_loop(first, last, lambda i, c: step(c, constants, i), carry)

  advance = jax.jit(advance, donate_argnums=0)

  def run(carry, constants, start, stop, tick=lambda index: None):
    while start < stop and received() is None:
      last = min(start + chunk, stop)
      carry = advance(carry, constants, jnp.int32(start), jnp.int32(last))
      jax.block_until_ready(carry)
      start = last
      tick(start)
    return carry, start

  return run


_received: int | None = None


def received() -> int | None:
  """The number of the signal that asked this program to stop, or None."""
  return _received


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
    if _received is not None:
      raise Interrupted(_received)
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
    _received = None
