"""A U-Net from images to images: not a classifier, but what a method may make perturbations by."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from miue_jax.models import layers

LEVELS = 3  # at which the resolution halves
MIN_SIDE = 2**LEVELS  # pixels


class UNet(nn.Module):
  """Encoder and decoder with skips (Ronneberger et al., MICCAI 2015), outputs in (-1, 1).

  Two 3x3 convolutions with batch norm and ReLU at every resolution, of w, 2w, 4w and 8w channels on
  the way down; average pooling, bilinear upsampling; at the end a 1x1 convolution, batch norm and
  tanh.

  Attributes:
    width: w, 64 in its published size.
    dtype: of the computation.
  """

  width: int = 64
  dtype: str = "float32"

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """Images `[batch, height, width, channel]` in [0, 1] -> float32 of the same shape.

    With `train=True` as for all networks (`miue_jax.models`).
    """

    def stage(x: jax.Array, channels: int) -> jax.Array:
      for _ in range(2):
        x = layers.conv(channels, (3, 3), dtype=self.dtype)(x)
        x = nn.relu(layers.batch_norm(train, self.dtype)(x))
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
