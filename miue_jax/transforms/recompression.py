"""What images lose on their way to a victim, with a gradient: grayscale and JPEG.

`defences.squeezing` does the same to stored images; these are for float images inside a step, so
that a perturbation can be moved to where it gets through.
"""

import functools
import io
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy import fft

# (one key per image, images) -> images
Squeeze = Callable[[jax.Array, jax.Array], jax.Array]

_STREAM = zlib.crc32(b"squeeze")  # what augmentation draws by the same keys is another
_BLOCK = 8  # pixels that a DCT spans
# RGB to luma and two chroma channels around 0 (ITU-R BT.601, as JFIF has it).
_TO_YCBCR = np.array(
  [
    [0.299, 0.587, 0.114],
    [-0.168736, -0.331264, 0.5],
    [0.5, -0.418688, -0.081312],
  ],
  np.float32,
)


def untouched(keys: jax.Array, images: jax.Array) -> jax.Array:
  """Images as they are."""
  del keys
  return images


def random_squeeze(names: tuple[str, ...]) -> Squeeze:
  """Squeezes every image by one of `names`, drawn by its key.

  Args:
    names: of `none`, `grayscale` and `jpeg1` to `jpeg95`; one given twice is drawn twice as often.
  """
  known = [_named(name) for name in names]

  def draw(key):
    return jax.random.randint(jax.random.fold_in(key, _STREAM), (), 0, len(known))

  def squeeze(keys, images):
    draws = jax.vmap(draw)(keys)
    result = images
    for number, each in enumerate(known):
      drawn = (draws == number)[:, None, None, None]
      result = jnp.where(drawn, each(images), result)
    return result

  return squeeze


def _named(name: str) -> Callable[[jax.Array], jax.Array]:
  if name == "none":
    return lambda images: images
  if name == "grayscale":
    return grayscale
  return functools.partial(jpeg, quality=int(name.removeprefix("jpeg")))


def grayscale(images: jax.Array) -> jax.Array:
  """Luma in all channels of `[batch, height, width, 1 or 3]`."""
  if images.shape[-1] == 1:
    return images
  luma = jnp.einsum("bhwc,c->bhw", images, _TO_YCBCR[0], precision="highest")
  return jnp.broadcast_to(luma[..., None], images.shape)


def jpeg(images: jax.Array, quality: int) -> jax.Array:
  """What JPEG leaves of images, up to the rounding of pixels; differentiable.

  The codec's steps, but a coefficient is rounded to `r + (x - r)^3` with r the nearest integer:
  near r, and with a gradient that fades where rounding takes all (Shin and Song, "JPEG-resistant
  Adversarial Images", 2017).

  Args:
    images: float `[batch, height, width, 1 or 3]` in [0, 1]; colour is stored at half resolution.
    quality: of libjpeg, 1 to 95.

  Returns:
    As `images`, in [0, 1].
  """
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


def _mixed(images: jax.Array, matrix: np.ndarray) -> jax.Array:
  return jnp.einsum("bhwc,dc->bhwd", images, matrix, precision="highest")


def _padded(images: jax.Array, multiple: int) -> jax.Array:
  """Repeats the last row and column until both sides are a multiple."""
  _, height, width, _ = images.shape
  return jnp.pad(images, ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)), "edge")


def _quantised(images: jax.Array, table: np.ndarray) -> jax.Array:
  """Blocks of 8 x 8 pixels after DCT, rounding to multiples of `table` and back."""
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
  """Quantisation of luma and chroma as the codec itself has it, float32 `[8, 8]` each."""
  file = io.BytesIO()
  Image.new("RGB", (_BLOCK, _BLOCK)).save(file, "JPEG", quality=quality)
  tables = Image.open(file, formats=("JPEG",)).quantization
  luma, chroma = (np.reshape(tables[n], (_BLOCK, _BLOCK)).astype(np.float32) for n in (0, 1))
  return luma, chroma
