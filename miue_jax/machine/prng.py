"""Derives named random keys from a seed."""

import zlib

import jax
import numpy as np

from miue_jax.machine import sharding


def stream(seed: int, *path: str | int) -> jax.Array:
  """A random key named by where it is used, e.g. `stream(seed, "victim", 3)`.

  Names enter by their crc32, so that adding a stream never changes another one.
  """
  path = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path]
  numbers = np.array([seed, *path], np.uint32)
  # Explicitly: what jax moves by itself might be more than a few numbers.
  return _key(
    jax.device_put(numbers) if jax.sharding.get_mesh().empty else sharding.replicate(numbers)
  )


@jax.jit
def _key(numbers: jax.Array) -> jax.Array:
  key = jax.random.key(numbers[0])
  for number in numbers[1:]:
    key = jax.random.fold_in(key, number)
  return key


def example_keys(key: jax.Array, ids: jax.Array) -> jax.Array:
  """One key per example, by its id: the same draw wherever the example lies."""
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, ids)
