"""What the networks share: normalisation, convolution, batch norm, pooling and the classifier.

Weights of convolutions and hidden layers start He-normal (variance 2 / fan-in), those of the
classifier as in `torch.nn.Linear` (uniform within 1 / sqrt(fan-in)); biases start at zero.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from miue_jax.machine.cpu import convolution

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
NORMALISATIONS = ("imagenet", "none")

he_normal = nn.initializers.he_normal()
conv = functools.partial(
  nn.Conv, use_bias=False, kernel_init=he_normal, conv_general_dilated=convolution.convolve
)
dense = functools.partial(nn.Dense, kernel_init=he_normal)


def normalise(images: jax.Array, how: str) -> jax.Array:
  """Shifts and scales images to what the network sees.

  Args:
    images: float `[batch, height, width, channel]` in [0, 1]; 1 (gray) or 3 (RGB) channels.
    how: "imagenet" subtracts the ImageNet mean and divides by its standard deviation, channel by
      channel (gray: by the averages of the three); "none" leaves the images as they are.

  Returns:
    float32, of the same shape.
  """
  images = images.astype(jnp.float32)
  if how == "none":
    return images
  mean, std = jnp.array(IMAGENET_MEAN), jnp.array(IMAGENET_STD)
  if images.shape[-1] == 1:
    mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
  return (images - mean.reshape(1, 1, 1, -1)) / std.reshape(1, 1, 1, -1)


def batch_norm(train: bool, dtype: str) -> nn.BatchNorm:
  """Batch normalisation with PyTorch's momentum and epsilon.

  In training the statistics are those of the global batch, so the call must be inside a
  `jax.shard_map` over the mesh axis "data". Statistics are float32 whatever `dtype`. The running
  variance averages the biased batch variance; PyTorch averages n / (n - 1) times as much, n being
  the number of values per channel (batch x height x width), from 1.0005 (n = 2048) downwards in
  the published settings.
  """
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=0.9,
    epsilon=1e-5,
    dtype=jnp.dtype(dtype),
    axis_name="data" if train else None,
  )


def halve(x: jax.Array) -> jax.Array:
  """2x2 max-pooling with stride 2; an odd last row or column is dropped."""
  height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
  # Not nn.max_pool: on a CPU its gradient makes a train step of small_cnn about 1.4 times as long.
  # Nor `x.max`, whose gradient asks where x equals the maximum: where XLA computes x twice, with
  # other rounding, nothing does.
  rows = jnp.maximum(x[:, 0:height:2], x[:, 1:height:2])
  return jnp.maximum(rows[:, :, 0:width:2], rows[:, :, 1:width:2])


def global_average(x: jax.Array) -> jax.Array:
  """Mean over height and width, summed in float32: `[B, H, W, C]` -> float32 `[B, C]`."""
  return x.astype(jnp.float32).mean(axis=(1, 2))


def classifier(num_classes: int) -> nn.Dense:
  """The last layer, always float32: features `[batch, d]` -> logits `[batch, num_classes]`."""
  uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
  return nn.Dense(num_classes, kernel_init=uniform, name="classifier")


def scaled(channels: int, width: int) -> int:
  """`channels` of a published network, `width` / 64 times as many: the nearest number, 1 or more.

  At the default width of 64 a network has its published size.
  """
  return max(1, round(channels * width / 64))


def imagenet_stem(x: jax.Array, channels: int, train: bool, dtype: str) -> jax.Array:
  """7x7 convolution with stride 2, batch norm, ReLU and 3x3 max-pooling with stride 2.

  Padding is symmetric, as in PyTorch: `[B, H, W, C]` -> `[B, H / 4, W / 4, channels]`, rounded up.
  """
  x = conv(channels, (7, 7), strides=2, padding=3, dtype=dtype)(x)
  x = nn.relu(batch_norm(train, dtype)(x))
  return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
