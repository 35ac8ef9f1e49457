"""Provides the layers that networks share.

The weights of convolutions and hidden layers start He-normal (variance 2 / fan-in), those of the
classifier as in `torch.nn.Linear` (uniform within 1 / sqrt(fan-in)). Biases start at zero.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import dtypes

from miue_jax.machine.cpu import convolution
from miue_jax.settings.config import Model

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

he_normal = nn.initializers.he_normal()
conv = functools.partial(
  nn.Conv, use_bias=False, kernel_init=he_normal, conv_general_dilated=convolution.convolve
)
dense = functools.partial(nn.Dense, kernel_init=he_normal)

FOLDED = "folded"  # collection of weights and shifts with batch norm folded in


def normalise(images: jax.Array, how: str) -> jax.Array:
  """Shifts and scales images to the input of a network.

  Args:
    images: Float images `[batch, height, width, channel]` in [0, 1] with 1 (gray) or 3 (RGB)
      channels.
    how: "imagenet" subtracts the ImageNet mean and divides by its standard deviation, per channel
      (gray: by the averages of the three); "none" only converts to float32.

  Returns:
    Float32 images of the same shape.
  """
  images = images.astype(jnp.float32)
  if how == "none":
    return images
  mean, std = jnp.array(IMAGENET_MEAN), jnp.array(IMAGENET_STD)
  if images.shape[-1] == 1:
    mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
  return (images - mean.reshape(1, 1, 1, -1)) / std.reshape(1, 1, 1, -1)


@jax.custom_jvp
def relu(x: jax.Array) -> jax.Array:
  """Returns the positive part of `x`, with a derivative of zero where `x` is zero.

  The derivative depends on the result only, so that `x` need not be kept for it and a GPU applies
  the function inside the convolution before it.
  """
  return jnp.maximum(x, 0)


@relu.defjvp
def _relu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
  y = relu(*primals)
  # XLA would replace `y > 0` by `x > 0`.
  return y, jnp.where(y != 0, tangents[0], 0)


def batch_norm(train: bool, dtype: str) -> nn.BatchNorm:
  """Returns batch normalisation with PyTorch's momentum and epsilon.

  In training the statistics are those of the global batch, so the call must be inside a
  `jax.shard_map` over the mesh axis "data". Statistics are always float32. The running variance
  averages the biased variance of the batch; PyTorch averages n / (n - 1) times as much, where n is
  the number of values per channel (batch x height x width). The factor is at most 1.0005 (n = 2048)
  in the published settings.
  """
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=0.9,
    epsilon=1e-5,
    dtype=jnp.dtype(dtype),
    axis_name="data" if train else None,
  )


def conv_norm(
  x: jax.Array, channels: int, kernel: int, stride: int, train: bool, dtype: str, groups: int = 1
) -> jax.Array:
  """Applies a square convolution with symmetric padding and batch norm.

  It maps `[batch, height, width, in]` to `[batch, height / stride, width / stride, channels]`, with
  sizes rounded up. `groups` is the number of groups of channels. Without `train`, batch norm is an
  affine map that is folded into the weights of the convolution, so that a GPU needs no pass over
  the activations for it. The folded weights are stored in the collection `FOLDED` if it is mutable,
  and are read from there if it holds them.
  """
  norm = batch_norm(train, dtype)
  # If intermediate results are captured, both layers must compute theirs.
  asked = norm.is_mutable_collection("intermediates")
  apart = train or asked or norm.is_initializing()
  promote: Any = dtypes.promote_dtype if apart else functools.partial(_scaled, norm)
  # "SAME" would pad a strided convolution on one side only; PyTorch pads both.
  x = conv(
    channels,
    (kernel, kernel),
    strides=stride,
    padding=kernel // 2,
    feature_group_count=groups,
    dtype=dtype,
    promote_dtype=promote,
  )(x)
  if apart:
    return norm(x)
  return x + _kept(norm, "shift", lambda: _affine(norm)[1].astype(x.dtype))


def _affine(norm: nn.BatchNorm) -> tuple[jax.Array, jax.Array]:
  """Returns the scales and shifts `[1, 1, 1, channels]` of batch norm with running statistics."""
  weights, statistics = norm.variables["params"], norm.variables["batch_stats"]
  scale = weights["scale"] * jax.lax.rsqrt(statistics["var"] + norm.epsilon)
  shift = weights["bias"] - statistics["mean"] * scale
  return scale.reshape(1, 1, 1, -1), shift.reshape(1, 1, 1, -1)


def _scaled(
  norm: nn.BatchNorm, x: jax.Array, kernel: jax.Array, bias: None, *, dtype: str
) -> Sequence[Any]:
  """Returns the operands of a convolution, with scaled weights, in their common type."""
  kernel = _kept(norm, "kernel", lambda: (kernel * _affine(norm)[0]).astype(dtype))
  return dtypes.promote_dtype(x, kernel, bias, dtype=dtype)


def _kept(norm: nn.BatchNorm, name: str, make: Callable[[], jax.Array]) -> jax.Array:
  """Returns a value of the collection `FOLDED`, or makes it and keeps it there if that is asked."""
  if norm.has_variable(FOLDED, name):
    return norm.get_variable(FOLDED, name)
  value = make()
  if norm.is_mutable_collection(FOLDED):
    norm.put_variable(FOLDED, name, value)
  return value


def stem(
  x: jax.Array, channels: int, model: Model, train: bool, preactivation: bool = False
) -> jax.Array:
  """Applies the first layers of a residual or dense network.

  The stem "small" is a 3x3 convolution with stride 1, for images of about 32 pixels, followed by
  batch norm and ReLU unless the blocks apply these first (`preactivation`). The stem "imagenet" is
  a 7x7 convolution with stride 2, batch norm, ReLU and 3x3 max-pooling with stride 2.
  """
  if model.stem == "imagenet":
    x = relu(conv_norm(x, channels, 7, 2, train, model.dtype))
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
  if preactivation:
    return conv(channels, (3, 3), dtype=model.dtype)(x)
  return relu(conv_norm(x, channels, 3, 1, train, model.dtype))


def stages(
  x: jax.Array, train: bool, depths: tuple[int, ...], block: Callable[[int, int], nn.Module]
) -> jax.Array:
  """Applies stages of `depths` blocks; every stage after the first starts with a stride of 2.

  `block` is a function from the number of the stage and the stride to a block.
  """
  for stage, depth in enumerate(depths):
    for index in range(depth):
      x = block(stage, 2 if stage > 0 and index == 0 else 1)(x, train)
  return x


def halve(x: jax.Array) -> jax.Array:
  """Applies 2x2 max-pooling with stride 2; an odd last row or column is dropped."""
  height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
  # Not `nn.max_pool`: on a CPU its gradient makes a train step of small_cnn 1.4 times as long. Not
  # `x.max`: its gradient asks where x equals the maximum, and where XLA computes x twice with
  # different rounding, no entry does.
  rows = jnp.maximum(x[:, 0:height:2], x[:, 1:height:2])
  return jnp.maximum(rows[:, :, 0:width:2], rows[:, :, 1:width:2])


def global_average(x: jax.Array) -> jax.Array:
  """Averages over height and width, summed in float32: `[B, H, W, C]` -> float32 `[B, C]`."""
  return x.astype(jnp.float32).mean(axis=(1, 2))


def classifier(num_classes: int) -> nn.Dense:
  """Returns the float32 layer from features `[batch, d]` to logits `[batch, num_classes]`."""
  uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
  return nn.Dense(num_classes, kernel_init=uniform, name="classifier")


def scaled(channels: int, width: int) -> int:
  """Returns `channels * width / 64`, rounded and at least 1.

  At the default width of 64 a network has its published number of channels.
  """
  return max(1, round(channels * width / 64))
