"""Random directions, and projections of features onto them in blocks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 128  # directions at a time


def draw(features: int, count: int, k: int, seed: int | list[int]) -> np.ndarray:
  """Orthonormal frames of `k` directions, uniform; float32 `[features, count, k]`."""
  rng = np.random.default_rng(seed)
  if k == 1:
    directions = rng.standard_normal((features, count))
    return (directions / np.linalg.norm(directions, axis=0)).astype(np.float32)[..., None]
  frames, triangle = np.linalg.qr(rng.standard_normal((count, features, k)))
  # QR decides the signs of its columns; with those of the triangle the frame is uniform.
  frames *= np.sign(np.einsum("cii->ci", triangle))[:, None, :]
  return frames.transpose(1, 0, 2).astype(np.float32)


def centred(x: np.ndarray) -> jax.Array:
  """Features around 0, divided by one number, float32: far offsets would drown what varies."""
  x = x.astype(np.float64)
  x = x - x.mean(axis=0)
  return jnp.asarray(x / (np.abs(x).max() or 1.0), jnp.float32)


def over(
  value: Callable[[jax.Array, jax.Array], np.ndarray],
  x: np.ndarray,
  y: np.ndarray,
  x_directions: np.ndarray,
  y_directions: np.ndarray,
) -> np.ndarray:
  """`value` of every projection.

  Args:
    value: `(x [samples, block, k], y [samples, block, k]) -> [block]`.
    x: `[samples, dx]`.
    y: `[samples, dy]`.
    x_directions: `[dx, count, k]`.
    y_directions: `[dy, count, k]`.

  Returns:
    `[count]`.
  """
  x, y = centred(x), centred(y)
  found = []
  for start in range(0, x_directions.shape[1], BLOCK):
    block = slice(start, start + BLOCK)
    found.append(value(_project(x, x_directions[:, block]), _project(y, y_directions[:, block])))
  return np.concatenate([np.asarray(values, np.float64) for values in found])


@jax.jit
def _project(x: jax.Array, directions: jax.Array) -> jax.Array:
  return jnp.einsum("nd,dck->nck", x, directions, precision="highest")
