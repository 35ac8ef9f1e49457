"""Features of the named layers of a network, all in one pass, a batch of images at a time."""

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

# What every network returns: features, which its classifier sees, and logits.
FEATURES = "features"
OUTPUTS = (FEATURES, "logits")


def names(module: nn.Module, image_shape: tuple[int, int, int]) -> tuple[str, ...]:
  """Layers of a network in the order in which they end, then `OUTPUTS`.

  A layer inside another one is named by its path, such as `BasicBlock_0/Conv_1`.

  Args:
    module: as `models.build` makes it.
    image_shape: (height, width, channel).
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

  # Shapes are enough to walk through a network: nothing is computed.
  jax.eval_shape(run, jax.random.key(0), jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
  return (*dict.fromkeys(ended), *OUTPUTS)


def chosen(patterns: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
  """The known layers that any pattern names, in their order; `*` stands for letters inside a name.

  `BasicBlock_*` are the blocks and not what lies inside them, which `BasicBlock_*/*` names.

  Raises:
    UserError: a pattern that names none.
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
        f"measure.layers names {pattern!r}, which this network does not have; it has {outer}."
      )
    found |= own
  return tuple(name for name in known if name in found)


def select(
  patterns: Sequence[str], module: nn.Module, image_shape: tuple[int, int, int]
) -> tuple[str, ...]:
  """The layers of a network that any pattern names, as `chosen` finds them among its `names`.

  Raises:
    UserError: a pattern that names none.
  """
  if set(patterns) <= set(OUTPUTS):  # every network has these: walking through one takes seconds
    return chosen(patterns, OUTPUTS)
  return chosen(patterns, names(module, image_shape))


class Extractor:
  """Features of some layers; compiled once.

  Attributes:
    layers: their names.
  """

  def __init__(self, module: nn.Module, layers: Sequence[str]):
    """Takes names from `names(module, ...)`; features of images, and the mesh, come from `fit`."""
    self.layers = tuple(layers)
    self._apply = _inference(module, self.layers, jax.sharding.get_mesh())

  def __call__(self, variables: Any, images: Images) -> dict[str, np.ndarray]:
    """Features of every layer, float32 `[N, d]`, BatchNorm frozen.

    What has positions, `[N, height, width, d]` or `[N, tokens, d]`, is averaged over them, as
    networks do it before their classifier.

    Args:
      variables: of the network, on the mesh.
      images: uint8 `[N, H, W, C]`; those that are read from files are, a batch at a time.
    """
    return prediction.in_batches(self._apply, variables, images)


@functools.lru_cache(maxsize=4)
def _inference(module: nn.Module, layers: tuple[str, ...], mesh: jax.sharding.Mesh):
  """The forward pass that keeps the outputs of `layers`."""
  del mesh  # part of the key: a compiled function belongs to its mesh

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
  """The last output of a layer, float32, averaged over all axes but the first and the last."""
  for part in name.split("/"):
    intermediates = intermediates[part]
  output = intermediates["__call__"][-1].astype(jnp.float32)
  return output.mean(axis=tuple(range(1, output.ndim - 1)))
