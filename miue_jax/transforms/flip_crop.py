"""Provides random flips and crops on the device, differentiable and with one key per image.

A crop (zero padding, then a window), a shift and a flip only select pixels, so each is written as
`rows @ image @ columns`: two small products with 0/1 matrices. Gathers would be exact too, but
their gradient is a scatter, which CPUs and TPUs compute one element at a time.
"""

import typing

import jax
import jax.numpy as jnp

from miue_jax.settings.config import Augmentation
from miue_jax.settings.errors import UserError
from miue_jax.transforms.hooks import assert_batch

KINDS = typing.get_args(Augmentation)
PAD = 4


def augment(kind: Augmentation, keys: jax.Array, images: jax.Array) -> jax.Array:
  """Flips and crops every image at random.

  Args:
    kind: `none`; `flip`, from left to right with probability 1/2; `crop`, a random window after 4
      pixels of zeros on every side; or `crop_flip`, both.
    keys: Random keys `[batch]`.
    images: Float images `[batch, height, width, channel]`.

  Returns:
    Float images of the same shape.

  Raises:
    UserError: `kind` is unknown.
  """
  if kind not in KINDS:
    raise UserError(f"Unknown augmentation {kind!r}; choose one of {', '.join(KINDS)}.")
  assert_batch(keys, images)
  if kind == "none":
    return images
  height, width = images.shape[1:3]
  shift_key, flip_key = jax.vmap(jax.random.split, out_axes=1)(keys)
  if "crop" in kind:
    shift = jax.vmap(lambda key: jax.random.randint(key, (2,), -PAD, PAD + 1))(shift_key)
  else:
    shift = jnp.zeros((len(images), 2), jnp.int32)
  if "flip" in kind:
    flip = jax.vmap(jax.random.bernoulli)(flip_key)
  else:
    flip = jnp.zeros(len(images), bool)
  columns = _selection(width, shift[:, 1], flip, images.dtype)
  images = jnp.einsum("bjw,bhwc->bhjc", columns, images, precision="highest")
  if "crop" not in kind:
    return images
  rows = _selection(height, shift[:, 0], jnp.zeros_like(flip), images.dtype)
  return jnp.einsum("bih,bhwc->biwc", rows, images, precision="highest")


def _selection(size: int, shift: jax.Array, flip: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """Returns 0/1 matrices `[batch, size, size]` that shift by `shift` and then mirror by `flip`."""
  source = jnp.arange(size)[None, :] + shift[:, None]
  source = jnp.where(flip[:, None], size - 1 - source, source)
  return (source[:, :, None] == jnp.arange(size)[None, None, :]).astype(dtype)
