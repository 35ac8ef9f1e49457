"""Decodes image files and resizes images, to uint8 arrays of one size."""

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import IO

import grain
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from miue_jax.machine import progress, reading
from miue_jax.settings.errors import UserError

# Formats of a source. Pillow would also open formats that run programs, such as EPS.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_GRAY_MODES = ("1", "L", "I;16")

_CHUNK = 8  # images that a thread decodes at a time

# A path, or an open binary file.
File = str | IO[bytes]


def resize(images: np.ndarray, size: int) -> np.ndarray:
  """Scales the shorter side to `size` pixels and crops the centre.

  Args:
    images: Images uint8 `[N, H, W, C]`, where C is 1 or 3.
    size: New height and width in pixels; 0 changes nothing.

  Returns:
    Images uint8 `[N, size, size, C]`.
  """
  if size == 0 or images.shape[1:3] == (size, size):
    return images
  resized = np.empty((len(images), size, size, images.shape[-1]), np.uint8)
  for target, image in zip(resized, images, strict=True):
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    target[...] = _as_array(_fit(picture, size))
  return resized


def decode(file: File, name: str, *, gray: bool, size: int) -> np.ndarray:
  """Decodes an image.

  The image is turned upright, put on white where it is transparent, reduced from 16 bits to 8 and
  resized.

  Args:
    file: File in PNG, JPEG, WebP or BMP format. The first frame of an animation is decoded.
    name: Name of the image in error messages.
    gray: Whether to return one channel instead of RGB.
    size: New height and width in pixels; 0 changes nothing.

  Returns:
    Image uint8 `[H, W, 1 or 3]`.

  Raises:
    UserError: The image does not decode or is too large to be decoded safely.
  """
  with _opened(file, name) as image:
    upright = ImageOps.exif_transpose(image)
    flat = _over_white(_eight_bits(upright)).convert("L" if gray else "RGB")
    return _as_array(_fit(flat, size) if size else flat)


def is_gray(file: File, name: str) -> bool:
  """Returns whether an image has one channel; reads only its header.

  Args:
    file: File in PNG, JPEG, WebP or BMP format.
    name: Name of the image in error messages.

  Raises:
    UserError: The file is not an image.
  """
  with _opened(file, name) as image:
    return image.mode in _GRAY_MODES


def dimensions(file: File, name: str) -> tuple[int, int]:
  """Returns height and width of an image as it is stored; reads only its header.

  Args:
    file: File in PNG, JPEG, WebP or BMP format.
    name: Name of the image in error messages.

  Raises:
    UserError: The file is not an image.
  """
  with _opened(file, name) as image:
    return image.height, image.width


def decode_all(
  fetch: Callable[[slice], Iterable[tuple[File, str]]], count: int, *, gray: bool, size: int
) -> np.ndarray:
  """Decodes many images with one Grain thread per core, and logs the progress.

  Args:
    fetch: Returns the files of a slice of `range(count)`, each with its name in error messages. It
      is called from several threads.
    count: Number of images.
    gray: Whether to return one channel instead of RGB.
    size: New height and width in pixels; 0 changes nothing and needs images of one size.

  Returns:
    Images uint8 `[count, H, W, 1 or 3]`.

  Raises:
    UserError: An image does not decode, or the images differ in size and `size` is 0.
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
          f"{shape[1]} x {shape[0]}: set data.size to resize all images to one size."
        )
      decoded.append(image)
    return np.stack(decoded)

  threads = os.cpu_count() or 1
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

  progress.count("decoded", filled(), count)
  return images


@contextlib.contextmanager
def _opened(file: File, name: str) -> Generator[Image.Image]:
  with contextlib.ExitStack() as stack:
    if isinstance(file, str):
      file = stack.enter_context(reading.opened(file))
    stack.enter_context(_errors_named(name))
    yield stack.enter_context(Image.open(file, formats=_FORMATS))


@contextlib.contextmanager
def _errors_named(name: str) -> Generator[None]:
  try:
    yield
  except UserError:
    raise
  except Image.DecompressionBombError as error:
    raise UserError(f"{name} is too large to be decoded safely: shrink or remove it.") from error
  except Exception as error:  # A damaged file makes Pillow raise any exception.
    reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
    raise UserError(
      f"{name} does not decode as PNG, JPEG, WebP or BMP ({reason}): repair or remove it."
    ) from error


def _eight_bits(image: Image.Image) -> Image.Image:
  if image.mode != "I;16":
    return image
  # 65535 / 255 = 257: this maps 0 to 0 and 65535 to 255.
  return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))


def _over_white(image: Image.Image) -> Image.Image:
  if not image.has_transparency_data:
    return image
  layer = image.convert("RGBA")
  return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)


def _fit(image: Image.Image, size: int) -> Image.Image:
  """Resizes and crops; Pillow widens the filter when it shrinks, which prevents aliasing."""
  return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)


def _as_array(image: Image.Image) -> np.ndarray:
  array = np.asarray(image)
  return array[..., None] if array.ndim == 2 else array
