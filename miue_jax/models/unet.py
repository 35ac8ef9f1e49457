"""Provides a U-Net from images to images, with which a method may generate perturbations."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from miue_jax.models import layers

LEVELS = 3  # number of times that the resolution halves
MIN_SIDE = 2**LEVELS  # pixels


class UNet(nn.Module):
  """Applies an encoder and a decoder with skip connections (Ronneberger et al., MICCAI 2015).

  Every resolution has two 3x3 convolutions with batch norm and ReLU, of w, 2w, 4w and 8w channels
  on the way down. Sides change by average pooling and bilinear upsampling. The last layers are a
  1x1 convolution, batch norm and tanh, so outputs are in (-1, 1).

  Attributes:
    width: Number of channels w of the first resolution, 64 in the published network.
    dtype: Type of the computation.
  """

  width: int = 64
  dtype: str = "float32"

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """Maps images `[batch, height, width, channel]` in [0, 1] to float32 of the same shape."""

    def stage(x: jax.Array, channels: int) -> jax.Array:
      for _ in range(2):
        x = layers.conv(channels, (3, 3), dtype=self.dtype)(x)
        x = layers.relu(layers.batch_norm(train, self.dtype)(x))
      return x

    x, skips = images, []
    for level in range(LEVELS):
      x = stage(x, self.width * 2**level)
      skips.append(x)
      x = nn.avg_pool(x, (2, 2), (2, 2))
    x = stage(x, self.width * 2**LEVELS)
    for skip in reversed(skips):
      x = jax.image.resize(x, (*skip.shape[:3], x.shape[3]), "linear")
      x = stage(jnp.concatenate([x, skip], axis=3), skip.shape[3])
    x = layers.conv(images.shape[3], (1, 1), dtype=self.dtype)(x)
    return jnp.tanh(layers.batch_norm(train, "float32")(x))
