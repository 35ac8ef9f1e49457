"""Provides transformations that remove information from images: JPEG, grayscale and fewer bits.

Each takes stored uint8 images, as a victim would compress them. JPEG and grayscale also take float
images inside a step and are differentiable there, so that an attack can optimise a perturbation
through them.
"""

import functools
import io
import zlib
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, JpegImagePlugin
from scipy import fft

from miue_jax.settings.errors import UserError
from miue_jax.transforms.hooks import Transformation, assert_batch

# Weights of red, green and blue in the luma (ITU-R BT.601, as in JFIF and Pillow).
LUMA = (0.299, 0.587, 0.114)
QUALITIES = range(1, 96)  # of libjpeg

_TO_YCBCR = np.array([LUMA, (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)], np.float32)
_STREAM = zlib.crc32(b"squeeze")  # separates the draw from that of augmentation by the same keys
_BLOCK = 8  # pixels on each side of a DCT block


def identity(keys: jax.Array, images: jax.Array) -> jax.Array:
  """Returns `images` unchanged."""
  del keys
  return images


def random_transformation(names: tuple[str, ...]) -> Transformation:
  """Returns a function that transforms every image by one of `names`, drawn by the image's key.

  Training through such draws optimises the expectation over transformations (Athalye et al.,
  "Synthesizing Robust Adversarial Examples", ICML 2018).

  Args:
    names: Any of `none`, `grayscale` and `jpeg1` to `jpeg95`; a name given twice is drawn twice as
      often.

  Returns:
    Function from keys `[batch]` and float images `[batch, height, width, 1 or 3]` in [0, 1] to
    images of the same shape.

  Raises:
    UserError: A name is unknown.
  """
  known = [_named(name) for name in names]

  def draw(key):
    return jax.random.randint(jax.random.fold_in(key, _STREAM), (), 0, len(known))

  def transform(keys, images):
    assert_batch(keys, images)
    draws = jax.vmap(draw)(keys)
    result = images
    for number, each in enumerate(known):
      drawn = (draws == number)[:, None, None, None]
      result = jnp.where(drawn, each(images), result)
    return result

  return transform


def _named(name: str) -> Callable[[jax.Array], Any]:
  """Returns the input transformation called `name`."""
  if name == "none":
    return lambda images: images
  if name == "grayscale":
    return grayscale
  kind, quality = name[:4], name[4:]
  if kind == "jpeg" and quality.isdecimal() and int(quality) in QUALITIES:
    return functools.partial(jpeg, quality=int(quality))
  raise UserError(
    f"Unknown input transformation {name!r}; choose none, grayscale or jpeg1 to jpeg95."
  )


def grayscale(images: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
  """Replaces all channels by the luma (ITU-R BT.601); gray images are returned unchanged.

  Args:
    images: `[batch, height, width, 1 or 3]`; uint8 images are rounded as Pillow does it, float
      images are not rounded.

  Returns:
    Images of the same shape and type.

  Raises:
    UserError: The images are neither uint8 nor floats.
  """
  _check(images)
  if images.shape[-1] == 1:
    return images
  if images.dtype == np.uint8:
    tall = np.asarray(images).reshape(-1, *images.shape[2:])  # one tall image for Pillow
    luma = np.asarray(Image.fromarray(tall).convert("L")).reshape(*images.shape[:3], 1)
    return np.repeat(luma, 3, axis=-1)
  luma = jnp.einsum("bhwc,c->bhw", images, _TO_YCBCR[0], precision="highest")
  return jnp.broadcast_to(luma[..., None], images.shape)


def bit_depth(images: np.ndarray, bits: int) -> np.ndarray:
  """Keeps the `bits` most significant bits (1 to 7) of uint8 values and clears the others.

  Raises:
    UserError: The values are not uint8, or `bits` is out of range.
  """
  if images.dtype != np.uint8 or bits not in range(1, 8):
    raise UserError(f"{images.dtype} values, {bits!r} bits: give uint8 values and 1 to 7 bits.")
  return images & np.uint8(256 - 2 ** (8 - bits))


def jpeg(images: jax.Array | np.ndarray, quality: int) -> jax.Array | np.ndarray:
  """Compresses images by JPEG and decompresses them; colour is stored at half resolution.

  Stored uint8 images go through Pillow's codec. Float images go through the codec's steps without
  its rounding of pixels. There a coefficient x is rounded to `r + (x - r)^3` with r the nearest
  integer: close to r, with a gradient that vanishes where rounding removes most (Shin and Song,
  "JPEG-resistant Adversarial Images", 2017).

  Args:
    images: `[batch, height, width, 1 or 3]`, uint8 on the host or float in [0, 1].
    quality: Quality of libjpeg, 1 to 95.

  Returns:
    Images of the same shape and type.

  Raises:
    UserError: The quality is out of range, or the images are neither uint8 nor floats.
  """
  _check(images)
  if not isinstance(quality, int | np.integer) or quality not in QUALITIES:
    raise UserError(f"JPEG quality {quality!r} is out of range: choose 1 to 95, an integer.")
  if images.dtype == np.uint8:
    return _codec(np.asarray(images), quality)
  images = jnp.asarray(images)
  height, width, channels = images.shape[1:]
  luma_table, chroma_table = _tables(quality)
  if channels == 1:
    pixels = _quantised(_padded(255 * images - 128, _BLOCK), luma_table)
    return jnp.clip((pixels[:, :height, :width] + 128) / 255, 0.0, 1.0)
  channels = _mixed(_padded(255 * images, 2 * _BLOCK), _TO_YCBCR)
  luma = _quantised(channels[..., :1] - 128, luma_table)
  chroma = channels[..., 1:]
  shape = chroma.shape
  halves = chroma.reshape(shape[0], shape[1] // 2, 2, shape[2] // 2, 2, 2).mean(axis=(2, 4))
  chroma = jax.image.resize(_quantised(halves, chroma_table), shape, "linear")
  pixels = _mixed(jnp.concatenate([luma + 128, chroma], axis=-1), np.linalg.inv(_TO_YCBCR))
  return jnp.clip(pixels[:, :height, :width] / 255, 0.0, 1.0)


def _check(images: jax.Array | np.ndarray) -> None:
  chex.assert_rank(images, 4)
  if images.dtype != np.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
    raise UserError(f"Images are {images.dtype}: give uint8 in 0..255, or floats in [0, 1].")


def _codec(images: np.ndarray, quality: int) -> np.ndarray:
  """Encodes and decodes uint8 images `[N, H, W, 1 or 3]` by Pillow."""
  result = np.empty_like(images)
  for target, image in zip(result, images, strict=True):
    file = io.BytesIO()
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.save(file, "JPEG", quality=quality)
    target[...] = np.asarray(Image.open(file, formats=("JPEG",))).reshape(image.shape)
  return result


def _mixed(images: jax.Array, matrix: np.ndarray) -> jax.Array:
  """Multiplies the channels of every pixel by a matrix `[out, in]`."""
  return jnp.einsum("bhwc,dc->bhwd", images, matrix, precision="highest")


def _padded(images: jax.Array, multiple: int) -> jax.Array:
  """Repeats the last row and column until both sides are multiples of `multiple`."""
  _, height, width, _ = images.shape
  return jnp.pad(images, ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)), "edge")


def _quantised(images: jax.Array, table: np.ndarray) -> jax.Array:
  """Rounds the DCT of every 8x8 block to multiples of `table` `[8, 8]` and transforms it back."""
  batch, height, width, channels = images.shape
  blocks = images.reshape(batch, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK, channels)
  dct = fft.dct(np.eye(_BLOCK, dtype=np.float32), axis=0, norm="ortho")
  product = functools.partial(jnp.einsum, precision="highest")
  table = table.reshape(1, 1, _BLOCK, 1, _BLOCK, 1)
  scaled = product("ki,lj,bhiwjc->bhkwlc", dct, dct, blocks) / table
  whole = jax.lax.stop_gradient(jnp.round(scaled))
  rounded = whole + (scaled - whole) ** 3
  blocks = product("ki,lj,bhkwlc->bhiwjc", dct, dct, rounded * table)
  return blocks.reshape(images.shape)


@functools.lru_cache
def _tables(quality: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the codec's quantisation tables of luma and chroma, float32 `[8, 8]` each."""
  file = io.BytesIO()
  Image.new("RGB", (_BLOCK, _BLOCK)).save(file, "JPEG", quality=quality)
  file.seek(0)
  tables = JpegImagePlugin.JpegImageFile(file).quantization
  luma, chroma = (np.reshape(tables[n], (_BLOCK, _BLOCK)).astype(np.float32) for n in (0, 1))
  return luma, chroma
