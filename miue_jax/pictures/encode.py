"""Encodes pictures for publication."""

import io
import os
from typing import Any

import numpy as np

from miue_jax.pictures import metadata, png
from miue_jax.pictures.decode import Picture, as_image

SUFFIX = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
_WEBP_SIDE, _JPEG_SIDE = 16383, 65500  # pixels
_JPEG_QUALITY = 95
_JPEG_EXIF = 65533  # bytes at most


def kind_of(path: str) -> str:
  """Returns the format of a published file, by its suffix."""
  suffix = os.path.splitext(path)[1]
  return next((kind for kind in SUFFIX if SUFFIX[kind] == suffix), "png")


def format_for(picture: Picture, wanted: str) -> tuple[str, str | None]:
  """Returns the format that can hold a picture, and why it is not the wanted one, or None.

  PNG holds everything. WebP has 8 bits a channel and at most 16383 pixels a side; JPEG has 8 bits,
  at most 65500 pixels a side and no alpha.
  """
  side = max(picture.channels.shape[:2])
  if wanted == "png":
    return "png", None
  name = {"webp": "WebP", "jpeg": "JPEG"}[wanted]
  if picture.channels.dtype == np.uint16:
    return "png", f"PNG, because {name} has no 16 bits"
  if wanted == "jpeg" and picture.alpha is not None:
    return "png", "PNG, because JPEG has no transparency"
  if side > (limit := _WEBP_SIDE if wanted == "webp" else _JPEG_SIDE):
    return "png", f"PNG, because {name} allows at most {limit} pixels a side"
  return wanted, None


def encode(
  picture: Picture, kind: str = "png", *, keep_metadata: bool = False, drop_author: bool = False
) -> bytes:
  """Returns the file of a picture.

  The colour profile is kept, and so are author and copyright unless `drop_author`. Places, times,
  cameras and serial numbers are dropped unless `keep_metadata`. Thumbnails, which would show the
  original, are always dropped.

  Args:
    picture: The picture.
    kind: A key of `SUFFIX`; PNG and WebP are lossless.
    keep_metadata: Whether to keep the other EXIF values.
    drop_author: Whether to drop author, copyright and the owner of the camera.
  """
  credit = {} if drop_author else picture.credit
  exif = picture.exif if keep_metadata else b""
  if exif and drop_author:
    exif = metadata.cleaned(metadata.parsed(exif), author=False)
  exif = metadata.credited(credit, exif)
  if kind == "jpeg" and len(exif) > _JPEG_EXIF:
    exif = metadata.credited(credit)
  if kind == "png":
    return png.encode(picture.channels, exif, picture.profile)
  options: dict[str, Any] = {
    "webp": {"lossless": True, "exact": True, "quality": 20, "method": 1},
    "jpeg": {"quality": _JPEG_QUALITY, "subsampling": 0},
  }[kind]
  if picture.profile:
    options["icc_profile"] = picture.profile
  if exif:
    options["exif"] = exif
  buffer = io.BytesIO()
  as_image(picture.channels).save(buffer, kind.upper(), **options)
  return buffer.getvalue()
