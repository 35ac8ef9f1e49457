"""Provides small generative networks for images of any size with pixels in [-1, 1]."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from miue_jax.machine.cpu import convolution

LATENT = 256  # number of latent dimensions of the autoencoder
_TIME = 64  # size of the embedding of a noise level

_Conv = functools.partial(nn.Conv, conv_general_dilated=convolution.convolve)


class Block(nn.Module):
  """Applies two 3x3 convolutions with group norm, SiLU and a residual connection."""

  channels: int

  @nn.compact
  def __call__(self, x: jax.Array, embedding: jax.Array | None = None) -> jax.Array:
    """Maps `[batch, H, W, c]`, with an embedding `[batch, e]`, to `[batch, H, W, channels]`."""
    y = _Conv(self.channels, (3, 3))(_normalised(x))
    if embedding is not None:
      y += nn.Dense(self.channels)(nn.silu(embedding))[:, None, None, :]
    y = _Conv(self.channels, (3, 3), kernel_init=nn.initializers.zeros)(_normalised(y))
    return y + (x if x.shape[-1] == self.channels else _Conv(self.channels, (1, 1))(x))


class UNet(nn.Module):
  """Predicts noise at three resolutions, with one block on the way down and one on the way up."""

  width: int

  @nn.compact
  def __call__(self, noisy: jax.Array, levels: jax.Array) -> jax.Array:
    """Predicts the noise in images `[batch, H, W, c]` at noise levels `[batch]` (1 to 1000)."""
    frequencies = jnp.exp(-jnp.log(10_000.0) * jnp.arange(_TIME // 2) / (_TIME // 2))
    angles = levels[:, None] * frequencies[None, :]
    embedding = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
    embedding = nn.Dense(4 * self.width)(nn.silu(nn.Dense(4 * self.width)(embedding)))
    x, skips = _Conv(self.width, (3, 3))(noisy), []
    for factor in (1, 2):
      x = Block(factor * self.width)(x, embedding)
      skips.append(x)
      x = _Conv(factor * self.width, (3, 3), strides=2, padding=1)(x)
    x = Block(2 * self.width)(x, embedding)
    for skip in reversed(skips):
      x = jnp.concatenate([_resized(x, skip.shape), skip], axis=-1)
      x = Block(skip.shape[-1])(x, embedding)
    zeros = nn.initializers.zeros
    return _Conv(noisy.shape[-1], (3, 3), kernel_init=zeros)(_normalised(x))


class Autoencoder(nn.Module):
  """Encodes images as Gaussian latent vectors and decodes them."""

  width: int
  image_shape: tuple[int, ...]

  @nn.compact
  def __call__(self, images: jax.Array, noise: jax.Array) -> tuple[jax.Array, ...]:
    """Maps images and latent noise `[batch, 256]` to (images, mean, log variance)."""
    x, sizes = _Conv(self.width, (3, 3))(images), []
    for factor in (2, 4):
      x = Block(factor * self.width)(x)
      sizes.append(x.shape)
      x = _Conv(factor * self.width, (3, 3), strides=2, padding=1)(x)
    code = nn.Dense(2 * LATENT)(x.reshape(len(x), -1))
    mean, log_variance = code[:, :LATENT], jnp.clip(code[:, LATENT:], -10.0, 10.0)
    sample = mean + jnp.exp(log_variance / 2) * noise
    x = nn.Dense(x[0].size)(sample).reshape(x.shape)
    for size in reversed(sizes):
      x = Block(size[-1])(_resized(x, size))
    return _Conv(self.image_shape[-1], (3, 3))(_normalised(x)), mean, log_variance


def _normalised(x: jax.Array) -> jax.Array:
  """Applies group norm and SiLU."""
  return nn.silu(nn.GroupNorm(num_groups=min(8, x.shape[-1]))(x))


def _resized(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Resizes `x` to the height and width of `shape` by nearest neighbours."""
  return jax.image.resize(x, (*x.shape[:1], *shape[1:3], x.shape[-1]), "nearest")
