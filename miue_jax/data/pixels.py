"""From image files and arrays to uint8 arrays of one size."""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO

import grain
import numpy as np
from absl import logging
from PIL import Image, ImageOps, UnidentifiedImageError

from miue_jax.settings.errors import UserError

# What a source may hold. Pillow would also open formats that run programs of their own (EPS).
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_GRAY_MODES = ("1", "L", "I;16")

_CHUNK = 8  # images that a thread decodes before it takes more
_SECONDS_BETWEEN_REPORTS = 10.0

# A path, or an open binary file.
File = str | IO[bytes]


def resize(images: np.ndarray, size: int) -> np.ndarray:
  """Scales the shorter side to `size` pixels and crops the centre.

  Args:
    images: uint8 `[batch, height, width, channel]`, channel 1 or 3.
    size: the new height and width in pixels; 0 keeps the images as they are.

  Returns:
    uint8 `[batch, size, size, channel]`.
  """
  if size == 0 or images.shape[1:3] == (size, size):
    return images
  resized = np.empty((len(images), size, size, images.shape[-1]), np.uint8)
  for target, image in zip(resized, images, strict=True):
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    target[...] = _as_array(_fit(picture, size))
  return resized


def decode(file: File, name: str, *, gray: bool, size: int) -> np.ndarray:
  """Decodes an image: upright, over white where it is transparent, 16 bits reduced to 8, resized.

  Args:
    file: in PNG, JPEG, WebP or BMP format; of an animation the first frame counts.
    name: what an error calls the image.
    gray: whether to return one channel instead of RGB.
    size: as in `resize`.

  Returns:
    uint8 `[height, width, 1 or 3]`.

  Raises:
    UserError: the image does not decode or is too large to be decoded safely.
  """
  with _errors_named(name), Image.open(file, formats=_FORMATS) as image:
    upright = ImageOps.exif_transpose(image)
    flat = _over_white(_eight_bits(upright)).convert("L" if gray else "RGB")
    return _as_array(_fit(flat, size) if size else flat)


def is_gray(file: File, name: str) -> bool:
  """Whether an image has one channel, by its header alone; `name` and errors as in `decode`."""
  with _errors_named(name), Image.open(file, formats=_FORMATS) as image:
    return image.mode in _GRAY_MODES


def decode_all(
  fetch: Callable[[slice], Iterable[tuple[File, str]]], count: int, *, gray: bool, size: int
) -> np.ndarray:
  """Decodes many images with one Grain thread for each core, and logs how it goes.

  Args:
    fetch: returns the images of a slice of `range(count)`, each with the name that errors give it.
      It is called from several threads.
    count: how many images there are.
    gray: as in `decode`.
    size: as in `decode`; 0 needs images that all have one size.

  Returns:
    uint8 `[count, height, width, 1 or 3]`.

  Raises:
    UserError: as `decode`, or images of several sizes where `size` is 0.
  """
  if count == 0:
    return np.empty((0, size, size, 1 if gray else 3), np.uint8)
  ((first_file, first_name),) = fetch(slice(0, 1))
  first = decode(first_file, first_name, gray=gray, size=size)
  if count == 1:
    return first[None]
  shape = first.shape
  images = np.empty((count, *shape), np.uint8)

  def decode_chunk(start: int) -> np.ndarray:
    decoded = []
    for file, name in fetch(slice(start, min(start + _CHUNK, count))):
      image = decode(file, name, gray=gray, size=size)
      if image.shape != shape:
        raise UserError(
          f"{name} is {image.shape[1]} x {image.shape[0]} pixels but {first_name} is "
          f"{shape[1]} x {shape[0]}: set data.size to bring all images to one size."
        )
      decoded.append(image)
    return np.stack(decoded)

  threads = os.cpu_count()
  chunks = (
    grain.MapDataset.range(0, count, _CHUNK)
    .map(decode_chunk)
    .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))
  )

  def filled() -> Iterator[int]:
    done = 0
    for decoded in chunks:
      images[done : done + len(decoded)] = decoded
      done += len(decoded)
      yield len(decoded)

  report(filled(), count)
  return images


def report(counts: Iterable[int], total: int) -> None:
  """Consumes `counts` of images done; logs now and then how many, how fast, seconds left."""
  start = last = time.monotonic()
  done = 0
  for count in counts:
    done += count
    now = time.monotonic()
    if now - last >= _SECONDS_BETWEEN_REPORTS:
      last = now
      rate = done / (now - start)
      seconds_left = (total - done) / rate
      logging.info(
        "decoded %d of %d images, %.0f images/s, %.0f s left", done, total, rate, seconds_left
      )


@contextlib.contextmanager
def _errors_named(name: str) -> Iterator[None]:
  try:
    yield
  except UserError:
    raise
  except Image.DecompressionBombError as error:
    raise UserError(f"{name} is too large to be decoded safely: shrink or remove it.") from error
  except Exception as error:  # Pillow raises whatever a damaged file provokes.
    reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
    raise UserError(
      f"{name} does not decode as PNG, JPEG, WebP or BMP ({reason}): repair or remove it."
    ) from error


def _eight_bits(image: Image.Image) -> Image.Image:
  if image.mode != "I;16":
    return image
  # 65535 / 255 = 257: both ends of the range stay where they are.
  return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))


def _over_white(image: Image.Image) -> Image.Image:
  if not image.has_transparency_data:
    return image
  layer = image.convert("RGBA")
  return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)


def _fit(image: Image.Image, size: int) -> Image.Image:
  """Pillow widens the filter when it shrinks an image, which is what prevents aliasing."""
  return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)


def _as_array(image: Image.Image) -> np.ndarray:
  array = np.asarray(image)
  return array[..., None] if array.ndim == 2 else array
