"""Applies a trained network to many images, in batches over the mesh."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import models
from miue_jax.data.images import Images
from miue_jax.machine import sharding
from miue_jax.machine.meshes import AXIS
from miue_jax.train.step import State

EVALUATION_BATCH = 512


def predict(module: nn.Module, state: State, images: Images) -> tuple[np.ndarray, np.ndarray]:
  """Returns features `[N, d]` and logits `[N, K]` of uint8 images `[N, H, W, C]`.

  BatchNorm uses its running statistics. Every process reads the images of its own devices and
  returns the results of all. A network is compiled once.
  """
  return in_batches(inference(module, jax.sharding.get_mesh()), state.variables, images)


def in_batches(apply: Callable[[Any, jax.Array], Any], variables: Any, images: Images) -> Any:
  """Applies a compiled function to images over the mesh, and gathers its results.

  Args:
    apply: Function of variables and uint8 images `[batch, H, W, C]`, sharded, that returns arrays
      `[batch, ...]`, sharded.
    variables: Replicated variables of the network.
    images: uint8 `[N, H, W, C]`; images that are read from files are read a batch at a time.

  Returns:
    The results of all images as NumPy arrays `[N, ...]`.
  """
  batch = evaluation_batch(len(images))

  def padded(rows: slice) -> np.ndarray:
    block = np.zeros((rows.stop - rows.start, *images.shape[1:]), np.uint8)
    stop = min(rows.stop, len(images))
    if rows.start < stop:
      block[: stop - rows.start] = images[rows.start : stop]
    return block

  results = []
  for start in range(0, len(images), batch):
    rows = sharding.shard_rows(
      lambda part, start=start: padded(slice(start + part.start, start + part.stop)),
      (batch, *images.shape[1:]),
    )
    results.append(sharding.fetch(apply(variables, rows)))
  return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(images)], *results)


def evaluation_batch(count: int) -> int:
  """Returns the batch size for `count` images: a multiple of the number of devices."""
  devices = jax.sharding.get_mesh().size
  return -(-min(EVALUATION_BATCH, count) // devices) * devices


@functools.lru_cache(maxsize=2)
def inference(module: nn.Module, mesh: jax.sharding.Mesh):
  """Returns the compiled forward pass of a network; equal networks share it."""
  del mesh  # part of the key: a compiled function belongs to its mesh

  def local(variables, images):
    return models.infer(module, variables, images.astype(jnp.float32) / 255)

  return jax.jit(jax.shard_map(local, in_specs=(jax.P(), jax.P(AXIS)), out_specs=jax.P(AXIS)))
