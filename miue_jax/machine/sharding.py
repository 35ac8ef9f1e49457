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

_BLOCK_BYTES = 2**26  # of a large array on its way to the lead


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
