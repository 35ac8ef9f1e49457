"""Random streams: named, reproducible and independent."""

import itertools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax.machine import prng


def bits(key):
  return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_streams_differ_by_seed_name_number_and_order():
  paths = [(), ("fit",), ("fit", 0), ("fit", 1), ("delta", 0), (0, "fit"), ("fit", 0, 0)]
  keys = {bits(prng.stream(seed, *path)) for seed in (0, 1) for path in paths}
  assert len(keys) == 2 * len(paths)
  assert bits(prng.stream(3, "fit", 2)) == bits(prng.stream(3, "fit", 2))


def test_a_stream_is_folded_in_by_the_crc_of_its_name():
  expected = jax.random.fold_in(jax.random.key(7), zlib.crc32(b"source"))
  assert bits(prng.stream(7, "source")) == bits(expected)


def test_streams_are_uncorrelated():
  names = ("weights", "fit", "source", "delta")
  draws = np.array([jax.random.normal(prng.stream(0, name), 10_000) for name in names])
  for one, other in itertools.combinations(draws, 2):
    assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(10_000)


def test_the_key_of_an_example_does_not_depend_on_its_position():
  key, ids = jax.random.key(0), jnp.array([5, 0, 3, 3])
  keys = prng.example_keys(key, ids)
  for row, example in enumerate(ids):
    assert bits(keys[row]) == bits(jax.random.fold_in(key, example))
