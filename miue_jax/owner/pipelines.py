"""Loads pictures as scrapers do: recompressed by a site, squashed or cropped."""

import io
import os
import pathlib
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from miue_jax.machine import progress
from miue_jax.pictures import decode
from miue_jax.pictures.decode import Picture


def centre(picture: Picture, size: int) -> np.ndarray:
  """Returns the centre of a picture whose shorter side became 8/7 of `size`, as for ImageNet."""
  image = decode.flat(picture)
  scale = size * 8 / 7 / min(image.size)
  width, height = (max(size, round(side * scale)) for side in image.size)
  image = image.resize((width, height), Image.Resampling.BILINEAR)
  left, top = (width - size) // 2, (height - size) // 2
  return np.asarray(image.crop((left, top, left + size, top + size)))


def part(picture: Picture, size: int) -> np.ndarray:
  """Returns a random part of a picture, as the random resized crop of ImageNet.

  A part has 0.35 to 1 of the area and 3/4 to 4/3 of the aspect ratio. The pixels seed the draw.
  """
  image = decode.flat(picture)
  random = np.random.default_rng(zlib.crc32(image.tobytes()))
  area, shape = random.uniform(0.35, 1.0), np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
  shares = np.minimum(1.0, np.sqrt(area * np.array([shape, 1 / shape])))
  sides = np.maximum(1, np.rint(shares * image.size)).astype(int)
  left, top = (
    int(random.integers(0, whole - side + 1)) for whole, side in zip(image.size, sides, strict=True)
  )
  box = left, top, left + int(sides[0]), top + int(sides[1])
  return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box))


def jpeg(quality: int) -> Callable[[Picture, int], np.ndarray]:
  """Returns the pipeline of a site that recompresses pictures at their own size."""

  def load(picture: Picture, size: int) -> np.ndarray:
    file = io.BytesIO()
    decode.flat(picture).save(file, "jpeg", quality=quality)
    with Image.open(file) as image:
      return decode.squashed(Picture(np.asarray(image)), size)

  return load


def halved(picture: Picture, size: int) -> np.ndarray:
  """Returns the whole picture after a site has halved its size, by Lanczos as image servers do."""
  image = decode.flat(picture)
  half = image.resize([max(1, side // 2) for side in image.size], Image.Resampling.LANCZOS)
  return decode.squashed(Picture(np.asarray(half)), size)


WHOLE = "the whole picture"
PIPELINES: dict[str, Callable[[Picture, int], np.ndarray]] = {
  WHOLE: decode.squashed,
  "the centre": centre,
  "a random part": part,
  f"{WHOLE} after JPEG 90": jpeg(90),
  f"{WHOLE} after JPEG 75": jpeg(75),
  f"{WHOLE} after JPEG 50": jpeg(50),
  f"{WHOLE} at half its size": halved,
}
# The loaders of scrapers; the others are attacks.
USUAL = (WHOLE, "the centre", "a random part", f"{WHOLE} after JPEG 90", f"{WHOLE} after JPEG 75")


def loaded(
  root: str | os.PathLike, paths: Sequence[str], pipeline: str, size: int, verb: str
) -> np.ndarray:
  """Returns files of a folder as a pipeline loads them, uint8 `[N, size, size, 3]`.

  Raises:
    UserError: A file is missing or cannot be decoded.
  """
  load = PIPELINES[pipeline]

  def read(path: str) -> np.ndarray:
    file = pathlib.Path(root) / path
    with decode.room(file):
      return load(decode.read(file, path), size)

  if not paths:
    return np.zeros((0, size, size, 3), np.uint8)
  return np.stack(list(progress.each_shown(read, paths, verb)))
