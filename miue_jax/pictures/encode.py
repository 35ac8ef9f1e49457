"""Encodes pictures for publication."""

from miue_jax.pictures.decode import Picture

SUFFIX = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
FORMATS = tuple(SUFFIX)


def format_for(picture: Picture, wanted: str) -> tuple[str, str | None]:
  """Returns the format that can hold a picture, and why it is not the wanted one, or None.

  PNG holds everything. WebP has no 16 bits and at most 16383 pixels a side, JPEG has neither alpha
  nor 16 bits.
  """
  raise NotImplementedError


def encode(
  picture: Picture, kind: str = "png", *, keep_metadata: bool = False, quality: int = 95
) -> bytes:
  """Returns the file of a picture.

  Author, copyright and colour profile are kept. Places, times, cameras and serial numbers are
  dropped unless `keep_metadata`. Thumbnails, which would show the original, are always dropped.

  Args:
    picture: The picture.
    kind: One of `FORMATS`; PNG and WebP are lossless.
    keep_metadata: Whether to keep all EXIF values.
    quality: Quality of JPEG.
  """
  raise NotImplementedError
