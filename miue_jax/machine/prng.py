"""Derives named random keys from a seed."""

import zlib

import jax
import numpy as np

from miue_jax.machine import sharding


def stream(seed: int, *path: str | int) -> jax.Array:
  """Returns the random key of a seed and a path of names, e.g. `stream(seed, "victim", 3)`.

  A name enters by its crc32, so that a new stream does not change the others.
  """
  codes = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path]
  numbers = np.array([seed, *codes], np.uint32)
  # The transfer is explicit: a transfer guard forbids implicit ones.
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
  """Returns one key per example `[n]`, derived from its id `[n]` and not from its position."""
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, ids)
