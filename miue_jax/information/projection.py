"""Draws random directions and projects features onto them in blocks."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 128  # directions at a time


def draw(features: int, count: int, seed: int | list[int]) -> np.ndarray:
  """Returns unit vectors, uniform on the sphere, float32 `[features, count]`."""
  directions = np.random.default_rng(seed).standard_normal((features, count))
  return (directions / np.linalg.norm(directions, axis=0)).astype(np.float32)


def centred(x: np.ndarray) -> jax.Array:
  """Returns features around 0, divided by one number, float32.

  A large offset would otherwise drown what varies.
  """
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
  """Returns `value` of every projection, `[count]`.

  Args:
    value: A function of projected features `[samples, block]`, once for x and once for y, that
      returns one number for each column, `[block]`.
    x: Features `[samples, dx]`.
    y: Features `[samples, dy]`.
    x_directions: Directions `[dx, count]`.
    y_directions: Directions `[dy, count]`.
  """
  chex.assert_rank([x, y, x_directions, y_directions], 2)
  sides = (centred(x), x_directions), (centred(y), y_directions)
  found = []
  for start in range(0, x_directions.shape[1], BLOCK):
    block = slice(start, start + BLOCK)
    found.append(value(*(_project(side, directions[:, block]) for side, directions in sides)))
  return np.concatenate([np.asarray(values, np.float64) for values in found])


@jax.jit
def _project(x: jax.Array, directions: jax.Array) -> jax.Array:
  return jnp.einsum("nd,dc->nc", x, directions, precision="highest")
