"""Moves arrays between the host and the devices of the mesh."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from miue_jax.machine import processes
from miue_jax.machine.meshes import AXIS

_BLOCK_BYTES = 2**26  # of a large array that is being sent to the lead


def shard(tree: Any) -> Any:
  """Shards the leading axis of every array over the mesh."""
  return jax.tree.map(lambda x: _put(x, jax.P(AXIS)), tree)


def replicate(tree: Any) -> Any:
  """Copies every array to each device of the mesh; it must be the same in all processes."""
  return jax.tree.map(lambda x: _put(x, jax.P()), tree)


def _put(x: Any, spec: jax.P) -> jax.Array:
  if isinstance(x, jax.Array):
    return jax.device_put(x, jax.NamedSharding(jax.sharding.get_mesh(), spec))
  x = np.asarray(x)
  return _assemble(lambda index: x[index], x.shape, spec)


def zeros(shape: tuple[int, ...], dtype: Any, spec: jax.P) -> jax.Array:
  """Makes zeros directly on their devices, so that no process holds a second copy."""
  sharding = jax.NamedSharding(jax.sharding.get_mesh(), spec)
  return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)()


def shard_rows(read: Callable[[slice], np.ndarray], shape: tuple[int, ...]) -> jax.Array:
  """Makes an array that is sharded by rows; every process reads only the rows of its own devices.

  Args:
    read: Returns the rows of a slice, whose bounds are not None.
    shape: Shape of the whole array.
  """
  return _assemble(lambda index: read(slice(*index[0].indices(shape[0])[:2])), shape, jax.P(AXIS))


def _assemble(read: Callable[[Any], np.ndarray], shape: tuple[int, ...], spec: jax.P) -> jax.Array:
  """Makes an array; every device gets what `read` returns for the device's index."""
  sharding = jax.NamedSharding(jax.sharding.get_mesh(), spec)
  # Unlike jax.make_array_from_callback, device_put is an explicit transfer for a transfer guard.
  pieces = [
    jax.device_put(read(index), device)
    for device, index in sharding.addressable_devices_indices_map(shape).items()
  ]
  return jax.make_array_from_single_device_arrays(shape, sharding, pieces)


def fetch(tree: Any) -> Any:
  """Returns NumPy copies of whole arrays on every process; all processes must call this."""

  def one(x: jax.Array) -> np.ndarray:
    if x.is_fully_addressable or x.is_fully_replicated:
      return jax.device_get(x)
    return multihost_utils.process_allgather(x, tiled=True)

  return jax.tree.map(one, tree)


def row_blocks(
  tree: Any, work: Callable[[Any], np.ndarray], shape: tuple[int, ...]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Computes results from the rows of large arrays and sends them to the lead, block by block.

  Every process must iterate to the end. A process works on its own rows and never holds more than
  one block of results.

  Args:
    tree: Pytree of arrays with equally many rows, sharded by rows.
    work: Computes results `[n, *shape]` from `n` rows of the tree.
    shape: Shape of the result of one row.

  Yields:
    Numbers of rows, where some occur twice, and their results. Only the lead process yields.
  """
  devices = jax.sharding.get_mesh().size
  leaves = jax.tree.leaves(tree)
  rows = len(leaves[0]) // devices
  size = min(rows, max(1, _BLOCK_BYTES // sum(x.nbytes // rows for x in leaves)))

  def local(x: jax.Array, part: slice) -> np.ndarray:
    starts = {shard.index[0].indices(len(x))[0]: shard.data for shard in x.addressable_shards}
    return jax.device_get(starts[part.start])

  def results(block: Any, part: slice) -> np.ndarray:
    return work(jax.tree.map(lambda x: local(x, part), block))

  for start in range(0, rows, size):
    # The last block starts early enough to be complete: a second shape would compile again.
    start = min(start, rows - size)
    block = _block(tree, replicate(np.int32(start)), size)
    result = fetch(shard_rows(functools.partial(results, block), (devices * size, *shape)))
    if processes.is_lead():
      yield (rows * np.arange(devices)[:, None] + start + np.arange(size)).ravel(), result


@functools.partial(jax.jit, static_argnums=2)
def _block(tree: Any, start: jax.Array, size: int) -> Any:
  """Returns rows `start` to `start + size` of every device."""
  slices = functools.partial(jax.lax.dynamic_slice_in_dim, slice_size=size)
  return jax.shard_map(
    lambda local, start: jax.tree.map(lambda x: slices(x, start), local),
    in_specs=(jax.P(AXIS), jax.P()),
    out_specs=jax.P(AXIS),
  )(tree, start)


def by_process(count: int, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
  """Computes one row per example; every process computes a share and receives all rows.

  Collective: all processes must call this.

  Args:
    count: Number of examples.
    compute: Maps ids `[n]`, where n can be 0, to rows `[n, ...]` of at most 32 bits an item.

  Returns:
    `[count, ...]`, the same on every process.
  """
  number, process = jax.process_count(), jax.process_index()
  if number == 1:
    return compute(np.arange(count))
  bounds = np.arange(number + 1) * count // number
  rows = compute(np.arange(bounds[process], bounds[process + 1]))
  # A gather needs the same shape everywhere. Shares differ by one row at most.
  spare = np.zeros((-(-count // number) - len(rows), *rows.shape[1:]), rows.dtype)
  shares = multihost_utils.process_allgather(np.concatenate([rows, spare]))
  return np.concatenate([share[:n] for share, n in zip(shares, np.diff(bounds), strict=True)])
