"""Hooks as a train step calls them: inside `shard_map`, on so many devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.machine import prng
from miue_jax.machine.meshes import AXIS
from miue_jax.transforms import hooks

CLASSES = 4
SHAPE = (12, 10, 3)


@pytest.fixture(scope="session")
def batch():
  """Keys, images and labels of one global batch."""
  rng = np.random.default_rng(0)
  images = rng.random((8, *SHAPE), np.float32)
  keys = prng.example_keys(jax.random.key(0), jnp.arange(8))
  return keys, images, rng.integers(0, CLASSES, 8, np.int32)


@pytest.fixture
def augmented(use_devices, quick_compiler):
  """`augmented(augment, keys, images, labels, devices)`: images, and soft labels as NumPy."""

  def run(augment, keys, images, labels, devices=1):
    use_devices(devices)

    def local(keys, images, labels):
      return augment(keys, images, hooks.Targets.hard(labels))

    data = jax.P(AXIS)
    sharded = jax.shard_map(local, in_specs=(data, data, data), out_specs=data)
    images, targets = jax.jit(sharded)(keys, images, labels)
    soft = np.asarray(targets.weights)[..., None] * np.eye(CLASSES)[np.asarray(targets.labels)]
    return np.asarray(images), soft.sum(axis=1)

  return run
