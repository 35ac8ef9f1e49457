"""Computes the outputs of named layers of a network, all in one pass, batch by batch."""

import fnmatch
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import models
from miue_jax.data.images import Images
from miue_jax.machine.meshes import AXIS
from miue_jax.settings.errors import UserError
from miue_jax.train import prediction

# Every network returns the input of its classifier and the logits.
FEATURES = "features"
OUTPUTS = (FEATURES, "logits")


def names(module: nn.Module, image_shape: tuple[int, int, int]) -> tuple[str, ...]:
  """Returns the layers of a network in the order of their computation, then `OUTPUTS`.

  A layer inside another one is named by its path, such as `BasicBlock_0/Conv_1`.

  Args:
    module: Network made by `models.build`.
    image_shape: Shape (height, width, channel) of the images.
  """
  ended: list[str] = []

  def note(layer: nn.Module, method: str) -> bool:
    if method == "__call__" and layer.path:
      ended.append("/".join(layer.path))
    return False

  def run(key: jax.Array, images: jax.Array) -> Any:
    variables = models.init(module, key, image_shape)
    ended.clear()
    return module.apply(variables, images, train=False, capture_intermediates=note, mutable=[])

  # Shapes are enough to trace a network: nothing is computed.
  jax.eval_shape(run, jax.random.key(0), jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
  return (*dict.fromkeys(ended), *OUTPUTS)


def chosen(patterns: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
  """Returns the known layers that match any pattern, in the order of `known`.

  `*` matches any characters but `/`: `BasicBlock_*` matches the blocks, and `BasicBlock_*/*` the
  layers inside them.

  Raises:
    UserError: A pattern matches no layer.
  """
  found = set()
  for pattern in patterns:
    depth = pattern.count("/")
    own = {
      name for name in known if name.count("/") == depth and fnmatch.fnmatchcase(name, pattern)
    }
    if not own:
      outer = ", ".join(name for name in known if "/" not in name)
      raise UserError(
        f"measure.layers has {pattern!r}, which matches no layer; this network has {outer}."
      )
    found |= own
  return tuple(name for name in known if name in found)


def select(
  patterns: Sequence[str], module: nn.Module, image_shape: tuple[int, int, int]
) -> tuple[str, ...]:
  """Returns the layers of a network that match any pattern, as `chosen` does.

  Raises:
    UserError: A pattern matches no layer.
  """
  if set(patterns) <= set(OUTPUTS):  # every network has these, and tracing one takes seconds
    return chosen(patterns, OUTPUTS)
  return chosen(patterns, names(module, image_shape))


def extract(
  module: nn.Module, layers: Sequence[str], variables: Any, images: Images
) -> dict[str, np.ndarray]:
  """Returns the features of some layers, float32 `[N, d]`, with BatchNorm in inference mode.

  Outputs with positions, `[N, height, width, d]` or `[N, tokens, d]`, are averaged over them, as
  networks do before their classifier. The pass is compiled once.

  Args:
    module: The network.
    layers: Names of layers, as `names` returns them.
    variables: Variables of the network, on the mesh.
    images: Images, uint8 `[N, H, W, C]`; lazy images are read batch by batch.
  """
  apply = _inference(module, tuple(layers), jax.sharding.get_mesh())
  return prediction.in_batches(apply, variables, images)


@functools.lru_cache(maxsize=4)
def _inference(module: nn.Module, layers: tuple[str, ...], mesh: jax.sharding.Mesh):
  """Returns the compiled forward pass that keeps the outputs of `layers`."""
  del mesh  # part of the cache's key: a compiled function belongs to its mesh

  def kept(layer: nn.Module, method: str) -> bool:
    return method == "__call__" and "/".join(layer.path) in layers

  def local(variables, images):
    outputs, state = module.apply(
      variables,
      images.astype(jnp.float32) / 255,
      train=False,
      capture_intermediates=kept,
      mutable=["intermediates"],
    )
    found = dict(zip(OUTPUTS, outputs, strict=True))
    return {
      name: found[name] if name in found else _pooled(state["intermediates"], name)
      for name in layers
    }

  return jax.jit(jax.shard_map(local, in_specs=(jax.P(), jax.P(AXIS)), out_specs=jax.P(AXIS)))


def _pooled(intermediates: Any, name: str) -> jax.Array:
  """Returns the last output of a layer, float32, averaged over all axes but first and last."""
  for part in name.split("/"):
    intermediates = intermediates[part]
  output = intermediates["__call__"][-1].astype(jnp.float32)
  return output.mean(axis=tuple(range(1, output.ndim - 1)))
