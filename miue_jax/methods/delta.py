"""Provides the perturbation on the devices: its start, its sign step, and its quantised result."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import budget
from miue_jax.data.dataset import Dataset
from miue_jax.data.sampling import Draw, stratified
from miue_jax.machine import sharding
from miue_jax.machine.meshes import AXIS
from miue_jax.settings.config import Method
from miue_jax.settings.errors import UserError
from miue_jax.train import lanes
from miue_jax.train.step import Frozen, Pass, pass_spec


class Delta(flax.struct.PyTreeNode):
  """A perturbation of images or of classes, stored as int16.

  Only this file distinguishes perturbations of classes from those of images.

  Attributes:
    stored: int16, in `parts` of a 255th, `[n, *lanes.row_shape(image)]`: one entry for each row of
      the table (sharded) or for each class (replicated).
    parts: Number of parts of a 255th.
    class_wise: Whether there is one perturbation for each class.
    image: Height, width, channels.
  """

  stored: jax.Array
  parts: int = flax.struct.field(pytree_node=False)
  class_wise: bool = flax.struct.field(pytree_node=False)
  image: tuple[int, ...] = flax.struct.field(pytree_node=False)

  @staticmethod
  def spec(settings: Any) -> jax.P:
    """Returns the partition spec of the perturbation of a method."""
    return jax.P() if settings.class_wise else jax.P(AXIS)

  @classmethod
  def zeros(cls, settings: Any, rows: int, classes: int, image: tuple[int, ...]) -> "Delta":
    """Returns a traceable perturbation of zeros."""
    count = classes if settings.class_wise else rows
    stored = jnp.zeros((count, *lanes.row_shape(image)), jnp.int16)
    return cls(stored, budget.resolution(settings.epsilon), settings.class_wise, image)

  def entries(self, at: jax.Array | slice) -> jax.Array:
    """Returns stored entries, int16 `[n, H, W, C]`."""
    return self.stored[at].reshape(-1, *self.image)

  def put(self, rows: jax.Array, entries: jax.Array) -> "Delta":
    """Returns the perturbation with other entries, int16 `[n, H, W, C]`, in some rows."""
    changed = entries.reshape(-1, *self.stored.shape[1:])
    return self.replace(stored=self.stored.at[rows].set(changed))

  def rows(self, rows: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the perturbations of images, float32 `[batch, H, W, C]` in [0, 1] pixel units."""
    return budget.unpack(self.entries(labels if self.class_wise else rows), self.parts)

  def variable(self, rows: jax.Array) -> jax.Array:
    """Returns the entries that a step on these rows moves, as float32."""
    return budget.unpack(self.entries(slice(None) if self.class_wise else rows), self.parts)

  def of_images(self, variable: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the perturbation of every image, from what `variable` returned."""
    return variable[labels] if self.class_wise else variable

  def added(self, images: jax.Array, perturbation: jax.Array) -> jax.Array:
    """Returns perturbed images; those of a class-wise perturbation are clipped to [0, 1]."""
    poisoned = images + perturbation
    return jnp.clip(poisoned, 0.0, 1.0) if self.class_wise else poisoned

  def moved(
    self,
    variable: jax.Array,
    rows: jax.Array,
    images: jax.Array,
    valid: jax.Array,
    epsilon: float,
  ) -> "Delta":
    """Returns the perturbation after a step, projected onto its budget.

    Args:
      variable: The entries after the step.
      rows: Rows of the batch.
      images: Clean images of the batch, float `[batch, H, W, C]`.
      valid: Rows that are perturbed, bool `[batch]`.
      epsilon: The budget, in [0, 1] pixel units.
    """
    if self.class_wise:
      packed = budget.pack(jnp.clip(variable, -epsilon, epsilon), self.parts)
      return self.replace(stored=packed.reshape(self.stored.shape))
    packed = budget.pack(budget.project(images, variable, epsilon), self.parts)
    return self.put(rows, jnp.where(valid[:, None, None, None], packed, self.entries(rows)))

  def fetch(self, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the perturbations of a few images, float32 `[n, H, W, C]`, on every process.

    All processes must call this.
    """
    if self.class_wise:
      stored = sharding.fetch(self.stored)[labels]
    else:
      stored = sharding.fetch(_gathered(self.stored, sharding.replicate(rows)))
    return budget.unpack(stored.reshape(-1, *self.image), self.parts)


@jax.jit
def _gathered(table: jax.Array, rows: jax.Array) -> jax.Array:
  """Returns rows of a sharded table on every device; no device holds the parts of the others."""

  def local(table, rows):
    here = rows - jax.lax.axis_index(AXIS) * len(table)
    ours = (here >= 0) & (here < len(table))
    values = table[jnp.clip(here, 0, len(table) - 1)]
    return jax.lax.psum(jax.vmap(jnp.where, (0, 0, None))(ours, values, 0), AXIS)

  return jax.shard_map(local, in_specs=(jax.P(AXIS), jax.P()), out_specs=jax.P())(table, rows)


class DeltaPass(flax.struct.PyTreeNode):
  """Constants of a delta pass.

  Attributes:
    source: The source model; None for methods without one.
    data: The pass over the images.
    perturbed: Rows that are perturbed, bool `[rows]`.
    compared: Rows that the objective compares, bool `[rows]`.
    step_size: Size of a sign step in [0, 1] pixel units.
  """

  source: Frozen | None
  data: Pass
  perturbed: jax.Array
  compared: jax.Array
  step_size: jax.Array

  @staticmethod
  def spec(settings: Any) -> "DeltaPass":
    """Returns the partition specs."""
    rows: Any = jax.P(AXIS)
    whole: Any = jax.P()
    return DeltaPass(whole, pass_spec(Delta.spec(settings)), rows, rows, whole)


def lay_out(count: int, settings: Any, seed: int) -> lanes.Layout:
  """Returns lanes for the batches of the source model, if there is one, and of delta.

  Raises:
    UserError: There are fewer images than one source batch.
  """
  sizes = (settings.batch_size,)
  if source := getattr(settings, "source", None):
    sizes = (source.batch_size, *sizes)
    if count < source.batch_size:
      raise UserError(
        f"{count} training images do not fill one source batch of {source.batch_size}: set "
        "method.source.batch_size and method.batch_size to at most that many."
      )
  return lanes.lay_out(count, sizes, seed)


def chosen_images(labels: np.ndarray, method: Method, seed: int) -> np.ndarray:
  """Returns a mask of the perturbed images, bool `[N]`: a part of each class, or of one class.

  `fraction`, `class_fractions` and `only_class` set the part; all images of the classes after the
  last of `class_fractions` are perturbed. The draw is stratified, and the images of a larger
  fraction include those of a smaller one.

  Raises:
    UserError: No image would be perturbed.
  """
  chosen = np.zeros(len(labels), bool)
  if method.class_fractions:
    chosen[labels >= len(method.class_fractions)] = True
    for label, fraction in enumerate(method.class_fractions):
      ids = np.flatnonzero(labels == label)
      drawn = stratified(labels[ids], round(fraction * len(ids)), seed, Draw.PERTURBED)
      chosen[ids[drawn]] = True
  else:
    chosen[stratified(labels, round(method.fraction * len(labels)), seed, Draw.PERTURBED)] = True
  chosen &= (labels == method.only_class) | (method.only_class == -1)
  if not chosen.any():
    if method.class_fractions:
      asked = f"method.class_fractions={method.class_fractions}"
    else:
      asked = f"method.fraction={method.fraction:g} with method.only_class={method.only_class}"
    raise UserError(
      f"{asked} leaves no image to perturb: raise a fraction or choose another class."
    )
  return chosen


def first_delta(
  dataset: Dataset, settings: Any, layout: lanes.Layout, seed: int | tuple[int, ...]
) -> Delta:
  """Returns the perturbation that generation starts from."""
  image, spec = tuple(dataset.train.images.shape[1:]), Delta.spec(settings)
  rows = dataset.num_classes if settings.class_wise else len(layout.ids)
  parts = budget.resolution(settings.epsilon)

  def noise(ids: np.ndarray) -> np.ndarray:
    uniform = _uniform(ids, image, seed)
    packed = budget.pack(np.float32(settings.epsilon) * (2 * uniform - 1), parts)
    return packed.reshape(-1, *one)

  one = lanes.row_shape(image)
  shape = rows, *one
  if settings.init == "zeros":
    stored = sharding.zeros(shape, np.int16, spec)
  elif settings.class_wise:
    stored = sharding.replicate(noise(np.arange(rows)))
  else:
    ids = np.maximum(layout.ids, 0)
    stored = sharding.shard_rows(lambda part: noise(ids[part]), shape)
  return Delta(stored, parts, settings.class_wise, image)


def _uniform(ids: np.ndarray, shape: tuple[int, ...], seed: int | tuple[int, ...]) -> np.ndarray:
  """Returns uniform float32 noise in [0, 1) of examples `ids`, `[len(ids), *shape]`.

  All examples share one stream, drawn in blocks: no process holds the noise of all examples.
  """
  generator = np.random.default_rng(seed)
  noise = np.empty((len(ids), *shape), np.float32)
  for block in budget.blocks((ids.max() + 1, *shape)):
    drawn = generator.random((block.stop - block.start, *shape), np.float32)
    inside = (block.start <= ids) & (ids < block.stop)
    noise[inside] = drawn[ids[inside] - block.start]
  return noise


def quantised(
  layout: lanes.Layout, table: lanes.Table, delta: Delta, perturbed: jax.Array, method: Method
) -> np.ndarray | None:
  """Returns the change of the stored images, int8 in example order, on the lead; None elsewhere.

  Every process must call this. It frees the images of the table and delta, since later stages need
  their memory.
  """
  patterns = sharding.fetch(delta.stored) if delta.class_wise else None

  def change(rows) -> np.ndarray:
    images, labels, chosen, stored = rows
    exact = budget.unpack(stored if patterns is None else patterns[labels], delta.parts)
    images, exact = (x.reshape(-1, *table.image) for x in (images, exact))
    result = budget.quantise(images, exact, method.epsilon, method.rounding)
    result[~chosen] = 0
    return result

  rows = (table.images, table.labels, perturbed, None if delta.class_wise else delta.stored)
  result = layout.fetch(rows, change, table.image)
  for done in (table.images, delta.stored):
    done.delete()
  return result
