"""Lays examples out on devices in lanes, so that no image or perturbation ever crosses devices.

Every example has a fixed random lane; lanes are spread over devices in order. A batch takes one
example from every lane, and each epoch has a new order inside the lanes. Any batch size that
divides the number of lanes can read a table; neighbouring lanes then join.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from miue_jax.data.dataset import Split
from miue_jax.machine import prng, sharding

EMPTY = -1

_TILE = 8, 128  # values that a TPU keeps and moves together


class Table(flax.struct.PyTreeNode):
  """Examples in storage order, sharded over the mesh.

  Attributes:
    images: Images, uint8 `[rows, *row_shape(image)]`; in a batch `[rows, H, W, C]`.
    labels: Labels, int32 `[rows]`.
    ids: Index of the example in its split, int32 `[rows]`; `EMPTY` for padding.
    image: Height, width, channels.
  """

  images: jax.Array
  labels: jax.Array
  ids: jax.Array
  image: tuple[int, ...] = flax.struct.field(pytree_node=False)

  def batch(self, rows: jax.Array | slice) -> "Table":
    """Returns some examples as a batch."""
    images = self.images[rows].reshape(-1, *self.image)
    return self.replace(images=images, labels=self.labels[rows], ids=self.ids[rows])


def row_shape(image: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the shape in which tables store an image or a perturbation `[H, W, C]`.

  It is `[H * W * C / 128, 128]` if an image fills whole tiles of a TPU, and `[H * W * C]`
  otherwise. TPUs store the last two axes of an array in tiles. With `[rows, H, W, C]`, a tile would
  hold the same pixel of many images, and every step would transpose the whole table to take a batch
  from it. A large image on a single axis would be gathered in parts, for which every step would
  copy the table.
  """
  values = math.prod(image)
  return (values,) if values % math.prod(_TILE) else (values // _TILE[1], _TILE[1])


@dataclasses.dataclass(frozen=True)
class Layout:
  """The assignment of examples to rows.

  Attributes:
    ids: Index of the example in each row, int32 `[rows]`; `EMPTY` for padding.
    count: Number of examples.
  """

  ids: np.ndarray
  count: int

  def steps(self, batch_size: int, partial: bool) -> int:
    """Returns the number of batches in one pass; `partial` counts the last, padded one.

    Without it, (count mod batch_size) examples are left out, which differ from epoch to epoch.
    """
    return math.ceil(self.count / batch_size) if partial else self.count // batch_size

  def place(self, split: Split) -> Table:
    """Returns a split on the devices; each process reads only the images of its own rows."""
    rows = np.maximum(self.ids, 0)
    image = tuple(split.images.shape[1:])
    one = row_shape(image)

    def read(part: slice) -> np.ndarray:
      return split.images[rows[part]].reshape(-1, *one)

    images = sharding.shard_rows(read, (len(rows), *one))
    labels, ids = sharding.shard((split.labels[rows].astype(np.int32), self.ids))
    return Table(images, labels, ids, image)

  def fetch(
    self, tree: Any, work: Callable[[Any], np.ndarray], shape: tuple[int, ...]
  ) -> np.ndarray | None:
    """Returns the results of `work` on table rows, in example order `[count, *shape]`.

    Only the lead gets them, other processes None; every process must call this. The arguments are
    those of `sharding.row_blocks`.
    """
    result = None
    for rows, made in sharding.row_blocks(tree, work, shape):
      result = np.empty((self.count, *shape), made.dtype) if result is None else result
      ids = self.ids[rows]
      result[ids[ids >= 0]] = made[ids >= 0]
    return result


def lay_out(count: int, batch_sizes: tuple[int, ...], seed: int) -> Layout:
  """Returns a random assignment of examples to lanes, whose number all batch sizes divide.

  Lane l of L holds `floor((l+1) count / L) - floor(l count / L)` examples, so that lanes which join
  for a smaller batch are as even as lanes made for it.
  """
  lanes = math.lcm(*batch_sizes)
  depth = math.ceil(count / lanes)
  bounds = np.arange(lanes + 1) * count // lanes
  order = np.random.default_rng(seed).permutation(count).astype(np.int32)
  ids = np.full((lanes, depth), EMPTY, np.int32)
  sizes = np.diff(bounds)
  ids[np.arange(depth)[None, :] < sizes[:, None]] = order
  return Layout(ids.reshape(-1), count)


def shuffle(key: jax.Array, ids: jax.Array, lanes: int) -> jax.Array:
  """Returns the order in which batches take the examples of each lane, padding last.

  Args:
    key: Random key of the pass.
    ids: Index of the example in each row, `[rows]` (inside `shard_map`: the local rows).
    lanes: Number of (local) lanes, a divisor of the number of rows.

  Returns:
    Rows of the table, int32 `[lanes, rows / lanes]`; column t is batch t.
  """
  bits = jax.vmap(lambda k: jax.random.bits(k, dtype=jnp.uint32))(prng.example_keys(key, ids))
  # The lowest bit is dropped, so that padding sorts last.
  bits = jnp.where(ids == EMPTY, jnp.uint32(0xFFFFFFFF), bits >> 1).reshape(lanes, -1)
  order = jnp.argsort(bits, axis=1).astype(jnp.int32)
  return order + jnp.arange(lanes, dtype=jnp.int32)[:, None] * bits.shape[1]
