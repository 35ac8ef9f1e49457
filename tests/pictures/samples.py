"""Makes small pictures and files of them for the tests of this folder."""

import io

import numpy as np
from PIL import Image

from miue_jax.pictures.survey import Found

# Transformations of stored pixels for display, from the EXIF standard's table of orientations.
UPRIGHT = {
  1: lambda x: x,
  2: lambda x: x[:, ::-1],
  3: lambda x: x[::-1, ::-1],
  4: lambda x: x[::-1],
  5: lambda x: x.transpose(1, 0, 2),
  6: lambda x: np.rot90(x, -1),
  7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
  8: lambda x: np.rot90(x),
}


def soft(rng, height=40, width=60, channels=3):
  """Returns a smooth random picture, uint8 `[H, W, C]`, with black and white areas."""
  coarse = rng.integers(-60, 316, (5, 6, channels)).clip(0, 255).astype(np.uint8)
  planes = [
    Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC)
    for c in range(channels)
  ]
  return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def deep(rng, height=40, width=60, channels=3):
  """Returns the same with 16 bits."""
  coarse = soft(rng, height, width, channels).astype(np.int64) * 257
  return (coarse + rng.integers(-200, 200, coarse.shape)).clip(0, 65535).astype(np.uint16)


def image(channels):
  return Image.fromarray(channels[..., 0] if channels.shape[-1] == 1 else channels)


def encoded(picture, kind="PNG", **options):
  file = io.BytesIO()
  picture.save(file, kind, **options)
  return file.getvalue()


def delta(rng, size=16, channels=3, limit=8):
  return rng.integers(-limit, limit + 1, (size, size, channels)).astype(np.int8)


def found(path, class_name="a"):
  return Found(path, class_name, None, path.rpartition(".")[0])
