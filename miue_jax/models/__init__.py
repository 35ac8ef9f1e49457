"""Provides classifiers from images in [0, 1] to features and logits.

`build` makes a network from its settings and `init` draws its variables. A network is called as
`network.apply(variables, images, train)` with float images `[batch, height, width, channel]`; it
returns features `[batch, d]` and logits `[batch, num_classes]`, both float32. With `train=True`
batch norm uses the statistics of the batch (`mutable=["batch_stats"]` returns the new running
statistics). The call must then be inside a `jax.shard_map` over the mesh axis "data", with
`rngs={"dropout": key}` for networks with dropout.

Example:
  >>> import jax
  >>> import miue_jax.models as models
  >>> network = models.build(models.Model(name="small_cnn", width=8), 10, (32, 32, 3))
  >>> variables = models.init(network, jax.random.key(0), (32, 32, 3))
  >>> features, logits = network.apply(variables, jax.numpy.zeros((4, 32, 32, 3)))
  >>> features.shape, logits.shape
  ((4, 32), (4, 10))
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from miue_jax.machine import cpu
from miue_jax.models import (
  densenet,
  lenet,
  mlp,
  mobilenet,
  resnet,
  senet,
  small_cnn,
  vgg,
  vit,
  wide_resnet,
)
from miue_jax.models.layers import FOLDED
from miue_jax.models.network import Network
from miue_jax.settings.config import Model
from miue_jax.settings.errors import UserError

__all__ = ["MODELS", "Model", "Network", "build", "fold", "infer", "init"]

MODELS: dict[str, Callable[[Model, int], Network]] = {
  "small_cnn": small_cnn.SmallCNN,
  "resnet18": resnet.resnet18,
  "resnet34": resnet.resnet34,
  "resnet50": resnet.resnet50,
  "vgg11_bn": vgg.vgg11_bn,
  "vgg19_bn": vgg.vgg19_bn,
  "densenet121": densenet.densenet121,
  "wrn34_10": wide_resnet.wrn34_10,
  "mobilenet_v2": mobilenet.MobileNetV2,
  "senet18": senet.senet18,
  "sl_vit": vit.sl_vit,
  "vit_s": vit.vit_s,
  "lenet5": lenet.LeNet5,
  "mlp3": mlp.mlp3,
  "mlp2": mlp.mlp2,
  "linear": mlp.linear,
}


def build(model: Model, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
  """Returns the network that `model` describes; nothing is computed yet.

  Args:
    model: Name, width, stem, normalisation and dtype.
    num_classes: Number of logits.
    image_shape: Shape (height, width, channel) of the images.

  Raises:
    UserError: The name is unknown, the images do not fit the network, or `model` is no `Model`.
  """
  if not isinstance(model, Model):
    raise UserError(f"model is {model!r}: give a Model, such as Model(name='resnet18').")
  if model.name not in MODELS:
    raise UserError(f"Unknown model name {model.name!r}; choose one of {', '.join(MODELS)}.")
  height, width, channels = image_shape
  if channels not in (1, 3):
    raise UserError(f"Images have {channels} channels; networks take 1 (gray) or 3 (RGB).")
  network = MODELS[model.name](model, num_classes)
  if min(height, width) < network.min_side:
    raise UserError(
      f"Images of {height}x{width} pixels are too small for {model.name}; enlarge them to at "
      f"least {network.min_side}x{network.min_side} (data.size) or choose another model."
    )
  patch = getattr(network, "patch", 1)  # transformers only
  if height % patch or width % patch:
    raise UserError(
      f"Images of {height}x{width} pixels cannot be divided into the {patch}x{patch} patches of "
      f"{model.name}; set data.size to a multiple of {patch} or choose another model."
    )
  return network


def infer(network: nn.Module, variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns features and logits of float images, with batch norm in inference mode."""
  outputs: Any = network.apply(variables, images, train=False)
  return outputs


@functools.partial(jax.jit, static_argnums=(0, 2))
def fold(
  network: nn.Module, variables: dict[str, Any], image_shape: tuple[int, ...]
) -> dict[str, Any]:
  """Returns the weights of convolutions with batch norm, by its running statistics, folded in.

  `infer` accepts the variables together with these weights, and then need not compute them.

  Args:
    network: Network made by `build`.
    variables: Its variables.
    image_shape: Shape (height, width, channel) of the images.

  Returns:
    The weights, under the key "folded"; empty for a network without such convolutions.
  """
  # Only the weights are computed: the forward pass is dead code.
  images = jnp.zeros((1, *image_shape))
  return dict(network.apply(variables, images, train=False, mutable=[FOLDED])[1])


@functools.lru_cache(maxsize=16)
def _draw(network: nn.Module, unoptimised: bool) -> Callable[[jax.Array, jax.Array], Any]:
  """Returns `network.init` as one compiled program, which equal networks share.

  The forward pass is dead code there and only the draws remain. They run once, and XLA's CPU
  backend would take about a second to optimise each.
  """
  options = {"xla_backend_optimization_level": 0} if unoptimised else None
  return jax.jit(network.init, compiler_options=options)


def init(
  network: nn.Module, key: jax.Array, image_shape: tuple[int, ...]
) -> dict[str, dict[str, Any]]:
  """Draws the initial variables of a network.

  Args:
    network: Network made by `build`.
    key: Random key.
    image_shape: Shape (height, width, channel) of the images, as given to `build`.

  Returns:
    Variables float32 under the keys "params" and "batch_stats"; the latter is empty for a network
    without batch norm.
  """
  # Inside an outer transformation (`jit` or `eval_shape` of a caller) the compiler options are not
  # ours to choose.
  unoptimised = cpu.in_use() and not isinstance(key, jax.core.Tracer)
  variables = _draw(network, unoptimised)(key, jnp.zeros((1, *image_shape)))
  return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
