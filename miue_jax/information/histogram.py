"""Mutual information by histograms of random projections.

Features of poisoned images are a function of the clean images, so the true mutual information of
continuous features is infinite: every finite value belongs to its bins and projections. Values are
comparable only under the same settings.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax.errors import UserError

_BLOCK = 32  # projections at a time


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A mutual-information estimate.

  Attributes:
    mi: mean over projections, nats.
    std: standard deviation over projections, nats.
  """

  mi: float
  std: float


def plug_in(x: jax.Array, y: jax.Array, bins: int) -> jax.Array:
  """Plug-in mutual information (nats) of two samples, `[samples]` each, by `bins` x `bins` cells.

  Bins have equal width between the smallest and the largest value of each sample. The plug-in
  estimate is biased upwards by about `(bins - 1)^2 / (2 samples)`.
  """
  joint = jnp.dot(_one_hot_bins(x, bins).T, _one_hot_bins(y, bins)) / len(x)
  independent = jnp.sum(joint, axis=1, keepdims=True) * jnp.sum(joint, axis=0, keepdims=True)
  occupied = joint > 0
  ratio = jnp.where(occupied, joint, 1.0) / jnp.where(occupied, independent, 1.0)
  return jnp.sum(joint * jnp.log(ratio))


def sliced(x: np.ndarray, y: np.ndarray, *, projections: int, bins: int, seed: int) -> Estimate:
  """Mean histogram mutual information over random directions, the same for both sides.

  Args:
    x: features of clean images, `[samples, d]`.
    y: features of released images, `[samples, d]`.
    projections: number of unit directions, uniform on the sphere.
    bins: per axis.
    seed: of the directions.

  Raises:
    UserError: shapes differ, too few samples, or values that are not finite.
  """
  if x.shape != y.shape or x.ndim != 2:
    raise UserError(f"Features have shapes {x.shape} and {y.shape}; both must be [samples, d].")
  if len(x) < bins:
    raise UserError(f"{len(x)} samples are too few for {bins} bins: measure more, or use fewer.")
  if not (np.isfinite(x).all() and np.isfinite(y).all()):
    raise UserError("Features hold NaN or infinity: the model diverged; train it again.")
  directions = np.random.default_rng(seed).standard_normal((x.shape[1], projections))
  directions = (directions / np.linalg.norm(directions, axis=0)).astype(np.float32)
  values = np.concatenate(
    [
      np.asarray(_plug_in_columns(x @ block, y @ block, bins))
      for block in np.split(directions, range(_BLOCK, projections, _BLOCK), axis=1)
    ]
  )
  return Estimate(float(values.mean()), float(values.std()))


@functools.partial(jax.jit, static_argnums=2)
def _plug_in_columns(x: jax.Array, y: jax.Array, bins: int) -> jax.Array:
  """`plug_in` of every column of `[samples, projections]`."""
  return jax.vmap(lambda a, b: plug_in(a, b, bins), in_axes=1)(x, y)


def _one_hot_bins(values: jax.Array, bins: int) -> jax.Array:
  low, high = jnp.min(values), jnp.max(values)
  # A constant sample falls into one bin and carries no information.
  width = jnp.where(high > low, high - low, 1.0)
  index = jnp.clip(((values - low) / width * bins).astype(jnp.int32), 0, bins - 1)
  return jax.nn.one_hot(index, bins)
