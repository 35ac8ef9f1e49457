"""The machine: devices and mesh, random streams, how a step is driven, what a signal does."""

import contextlib
import functools
import os
import signal
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from miue_jax import allocator, processes
from miue_jax.errors import UserError
from miue_jax.processes import Interrupted

AXIS = "data"

# Steps per dispatch where the loop runs on the device: long enough to hide the dispatch, short
# enough that a signal is answered within seconds.
_CHUNK = 64
_BLOCK_BYTES = 2**26  # of a large array on its way to the lead


def start(devices: int, batch_sizes: tuple[int, ...]) -> jax.sharding.Mesh:
  """Chooses devices, makes the `data` mesh over them and sets it for the program.

  Convolutions of one CPU device use little more than one core, so on a CPU every core becomes a
  device. Must run before any other use of jax but `processes.together`.

  Args:
    devices: how many, over all processes; 0 takes all accelerators, or on a CPU as many cores (at
      most 8 in a process) as divide every batch.
    batch_sizes: every global batch must be divisible by the number of devices.

  Raises:
    UserError: more devices asked than there are, devices that do not spread over the processes, or
      a batch that they do not divide.
  """
  count = processes.count()
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
  fitting = (n for n in range(min(cores, 8), 0, -1) if _divides(n * count, batch_sizes))
  wanted = devices // count or next(fitting, 1)
  if "JAX_NUM_CPU_DEVICES" not in os.environ:
    # Refused once a backend runs (a second call in one process); the existing devices then count.
    with contextlib.suppress(RuntimeError):
      jax.config.update("jax_num_cpu_devices", min(wanted, cores))
  allocator.keep(jax.config.jax_num_cpu_devices)
  available = jax.devices()
  on_cpu = available[0].platform == "cpu"
  if devices > len(available):
    virtual = ", or set JAX_NUM_CPU_DEVICES to have more of them than cores" if on_cpu else ""
    raise UserError(
      f"devices={devices} but {_here(count)} {len(available)} ({available[0].platform}); ask for "
      f"at most {len(available)}, or 0 for all{virtual}."
    )
  used = devices or (min(wanted, len(available)) if on_cpu and count == 1 else len(available))
  if count > 1 and (used < len(available) or len(available) != count * jax.local_device_count()):
    raise UserError(
      f"devices={devices} but {_here(count)} {len(available)}, {jax.local_device_count()} of them "
      "in this one; each must have as many as the others, and all are used: set devices=0."
    )
  if not _divides(used, batch_sizes):
    raise UserError(
      f"The batch sizes {sorted(set(batch_sizes))} must be divisible by the {used} devices; "
      "change method.batch_size, source.batch_size or victim_fit.batch_size, or set devices."
    )
  mesh = jax.make_mesh(
    (used,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=available[:used]
  )
  jax.set_mesh(mesh)
  return mesh


def _here(count: int) -> str:
  return "this machine offers" if count == 1 else f"these {count} processes offer"


def _divides(devices: int, batch_sizes: tuple[int, ...]) -> bool:
  return all(size % devices == 0 for size in batch_sizes)


def shard(tree: Any) -> Any:
  """Spreads the leading axis of every array over the mesh."""
  return jax.tree.map(lambda x: _put(x, jax.P(AXIS)), tree)


def replicate(tree: Any) -> Any:
  """Puts a copy of every array, the same in all processes, on each device of the mesh."""
  return jax.tree.map(lambda x: _put(x, jax.P()), tree)


def _put(x: Any, spec: jax.P) -> jax.Array:
  if isinstance(x, jax.Array):
    return jax.device_put(x, jax.NamedSharding(jax.sharding.get_mesh(), spec))
  x = np.asarray(x)
  return _assemble(lambda index: x[index], x.shape, spec)


def zeros(shape: tuple[int, ...], dtype: Any, spec: jax.P) -> jax.Array:
  """Zeros that are made where they will lie: no process holds them a second time."""
  sharding = jax.NamedSharding(jax.sharding.get_mesh(), spec)
  return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)()


def shard_rows(read: Callable[[slice], np.ndarray], shape: tuple[int, ...]) -> jax.Array:
  """As `shard`, but every process reads only the rows of its own devices.

  Args:
    read: returns the rows of a slice, whose bounds are numbers.
    shape: of the whole array.
  """
  return _assemble(lambda index: read(slice(*index[0].indices(shape[0])[:2])), shape, jax.P(AXIS))


def _assemble(read: Callable[[Any], np.ndarray], shape: tuple[int, ...], spec: jax.P) -> jax.Array:
  """An array of which every device gets what `read` returns for its index."""
  sharding = jax.NamedSharding(jax.sharding.get_mesh(), spec)
  # Unlike jax.make_array_from_callback, device_put counts as a transfer that was asked for.
  pieces = [
    jax.device_put(read(index), device)
    for device, index in sharding.addressable_devices_indices_map(shape).items()
  ]
  return jax.make_array_from_single_device_arrays(shape, sharding, pieces)


def local_rows(x: jax.Array, rows: slice) -> np.ndarray:
  """What `shard_rows` read for `rows` of an array that lies as `x` does."""
  starts = {shard.index[0].indices(len(x))[0]: shard.data for shard in x.addressable_shards}
  return jax.device_get(starts[rows.start])


def fetch(tree: Any) -> Any:
  """Returns NumPy copies of whole arrays, on every process: all of them must call this."""

  def one(x: jax.Array) -> np.ndarray:
    if x.is_fully_addressable or x.is_fully_replicated:
      return jax.device_get(x)
    return multihost_utils.process_allgather(x, tiled=True)

  return jax.tree.map(one, tree)


def row_blocks(
  tree: Any, work: Callable[[Any], np.ndarray], shape: tuple[int, ...]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Makes something of the rows of large arrays and brings it to the lead, block by block.

  Every process must iterate to the end. Each works on its own rows, and none ever holds more than a
  block of what is made.

  Args:
    tree: of arrays with as many rows each, sharded by rows.
    work: makes rows `[n, *shape]` of the tree's rows.
    shape: of what is made of one row.

  Yields:
    On the lead numbers of rows, some of them twice, and what was made of them; nothing elsewhere.
  """
  devices = jax.sharding.get_mesh().size
  leaves = jax.tree.leaves(tree)
  rows = len(leaves[0]) // devices
  size = min(rows, max(1, _BLOCK_BYTES // sum(x.nbytes // rows for x in leaves)))

  def made(block: Any, part: slice) -> np.ndarray:
    return work(jax.tree.map(lambda x: local_rows(x, part), block))

  for start in range(0, rows, size):
    # The last block starts early enough to be whole: one shape is one compilation.
    start = min(start, rows - size)
    block = _block(tree, replicate(np.int32(start)), size)
    result = fetch(shard_rows(functools.partial(made, block), (devices * size, *shape)))
    if processes.is_lead():
      yield (rows * np.arange(devices)[:, None] + start + np.arange(size)).ravel(), result


@functools.partial(jax.jit, static_argnums=2)
def _block(tree: Any, start: jax.Array, size: int) -> Any:
  """Rows `start` to `start + size` of every device."""
  slices = functools.partial(jax.lax.dynamic_slice_in_dim, slice_size=size)
  return jax.shard_map(
    lambda local, start: jax.tree.map(lambda x: slices(x, start), local),
    in_specs=(jax.P(AXIS), jax.P()),
    out_specs=jax.P(AXIS),
  )(tree, start)


def stream(seed: int, *path: str | int) -> jax.Array:
  """A random key named by where it is used, e.g. `stream(seed, "victim", 3)`.

  Names enter by their crc32, so that adding a stream never changes another one.
  """
  path = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path]
  numbers = np.array([seed, *path], np.uint32)
  # Explicitly: what jax moves by itself might be more than a few numbers.
  return _key(jax.device_put(numbers) if jax.sharding.get_mesh().empty else replicate(numbers))


@jax.jit
def _key(numbers: jax.Array) -> jax.Array:
  key = jax.random.key(numbers[0])
  for number in numbers[1:]:
    key = jax.random.fold_in(key, number)
  return key


def example_keys(key: jax.Array, ids: jax.Array) -> jax.Array:
  """One key per example, by its id: the same draw wherever the example lies."""
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, ids)


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
    first, last = bounds if jax.sharding.get_mesh().empty else replicate(bounds)
    while start < stop and received() is None:
      jitted = jitted or allocator.jitted(advance, carry, constants, first, last)
      carry, first = jitted(carry, constants, first, last)
      jax.block_until_ready(carry)
      start = min(start + chunk, stop)
      tick(start)
    return carry, start

  return run


_received: int | None = None


def received() -> int | None:
  """The number of the signal that asked this program to stop, or None.

  A signal to one process counts for all of them, from the same step on: they agree here, so all
  must call this equally often.
  """
  global _received
  if processes.count() > 1:
    mesh = jax.sharding.get_mesh()
    votes = shard(np.full(mesh.size, _received or 0, np.int32))
    _received = int(fetch(_largest(mesh)(votes))) or None
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
