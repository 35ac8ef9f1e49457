"""Networks: images in [0, 1] -> (features, logits).

Every network is a `flax.linen` module called as `module.apply(variables, images, train)`, with
images float `[batch, height, width, channel]`; it returns features `[batch, d]` and logits
`[batch, num_classes]`, both float32. With `train=True` batch norm uses the statistics of the batch
(`mutable=["batch_stats"]` hands back the new running ones) and the call must be inside a
`jax.shard_map` over the mesh axis "data", with `rngs={"dropout": key}` for the networks that have
dropout; with `train=False` neither is needed.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from miue_jax.machine import cpu
from miue_jax.models import (
  densenet,
  layers,
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
from miue_jax.settings import config
from miue_jax.settings.errors import UserError

MODELS: dict[str, Callable[[config.Model, int], nn.Module]] = {
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
STEMS = ("small", "imagenet")
DTYPES = ("float32", "bfloat16")


def build(model: config.Model, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
  """Makes the network that `model` describes; nothing is computed yet.

  Args:
    model: which network, how wide and in which precision.
    num_classes: number of logits.
    image_shape: (height, width, channel) of the images it will see.

  Raises:
    UserError: a field of `model` has an unknown value, or the images do not fit the network.
  """
  choices = {
    "name": tuple(MODELS),
    "stem": STEMS,
    "normalise": layers.NORMALISATIONS,
    "dtype": DTYPES,
  }
  for field, known in choices.items():
    value = getattr(model, field)
    if value not in known:
      raise UserError(f"Unknown model {field} {value!r}; choose one of {', '.join(known)}.")
  if model.width < 1:
    raise UserError(f"Model width {model.width} is not a number of channels; set 1 or more.")
  height, width, channels = image_shape
  if channels not in (1, 3):
    raise UserError(f"Images have {channels} channels; networks take 1 (gray) or 3 (RGB).")
  module = MODELS[model.name](model, num_classes)
  if min(height, width) < module.min_side:
    raise UserError(
      f"Images of {height}x{width} pixels are too small for {model.name}; enlarge them to at "
      f"least {module.min_side}x{module.min_side} (data.size) or choose another model."
    )
  patch = getattr(module, "patch", 1)  # of a transformer
  if height % patch or width % patch:
    raise UserError(
      f"Images of {height}x{width} pixels do not divide into the {patch}x{patch} patches of "
      f"{model.name}; set data.size to a multiple of {patch} or choose another model."
    )
  return module


def init(
  module: nn.Module, key: jax.Array, image_shape: tuple[int, int, int]
) -> dict[str, dict[str, Any]]:
  """Draws the initial variables of a network.

  Args:
    module: from `build`.
    key: a JAX random key.
    image_shape: (height, width, channel), as given to `build`.

  Returns:
    `{"params": ..., "batch_stats": ...}`, all float32; "batch_stats" is empty for a network
    without batch norm.
  """
  # Compiled as one program, the forward pass is dead code and only the draws are left. They run
  # once, and XLA's CPU backend takes about a second to optimise each; inside an outer
  # transformation (a caller's `jit` or `eval_shape`) that is not ours to choose.
  unoptimised = cpu.in_use() and not isinstance(key, jax.core.Tracer)
  options = {"xla_backend_optimization_level": 0} if unoptimised else None
  draw = jax.jit(module.init, compiler_options=options)
  variables = draw(key, jnp.zeros((1, *image_shape)))
  return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
