"""Decodes image files and resizes images, to uint8 arrays of one size."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import IO

import grain
import numpy as np
from PIL import Image, ImageOps

from miue_jax.machine import progress, threads
from miue_jax.pictures import decode as pictures
from miue_jax.settings.errors import UserError

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
    target[...] = _as_array(_fit(pictures.as_image(image), size))
  return resized


def decode(file: File, name: str, *, gray: bool, size: int) -> np.ndarray:
  """Decodes an image.

  The image is turned upright, converted to sRGB if it has another colour profile, put on white
  where it is transparent, reduced from 16 bits to 8 and resized.

  Args:
    file: File of a picture. The first frame of an animation is decoded.
    name: Name of the image in error messages.
    gray: Whether to return one channel instead of RGB.
    size: New height and width in pixels; 0 changes nothing.

  Returns:
    Image uint8 `[H, W, 1 or 3]`.

  Raises:
    UserError: The image cannot be decoded or is too large to be decoded safely.
  """
  content = pictures.load(file) if isinstance(file, str | os.PathLike) else file.read()
  flat = pictures.flat(pictures.decode(content, name), gray=gray)
  return _as_array(_fit(flat, size) if size else flat)


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
    UserError: An image cannot be decoded, or the images differ in size and `size` is 0.
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

  cores = threads.cores()
  chunks = (
    grain.MapDataset.range(0, count, _CHUNK)
    .map(decode_chunk)
    .to_iter_dataset(grain.ReadOptions(num_threads=cores, prefetch_buffer_size=2 * cores))
  )

  def filled() -> Iterator[int]:
    done = 0
    for decoded in chunks:
      images[done : done + len(decoded)] = decoded
      done += len(decoded)
      yield len(decoded)

  progress.count("decoded", filled(), count)
  return images


def _fit(image: Image.Image, size: int) -> Image.Image:
  """Resizes and crops; Pillow widens the filter when it shrinks, which prevents aliasing."""
  return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)


def _as_array(image: Image.Image) -> np.ndarray:
  array = np.asarray(image)
  return array[..., None] if array.ndim == 2 else array
