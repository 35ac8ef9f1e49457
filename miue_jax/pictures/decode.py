"""Decodes picture files to their stored pixels. Pixels decide; metadata never stop a picture."""

import dataclasses
import os

import numpy as np

# Lower-case suffixes of the files that are read.
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif")
MAX_PIXELS = 2**28


@dataclasses.dataclass(frozen=True)
class Picture:
  """Holds one picture, upright.

  Attributes:
    channels: Stored pixels, uint8 or uint16 `[H, W, C]`. C is 1 (gray), 2 (gray and alpha), 3 (RGB)
      or 4 (RGB and alpha). Values are those of the picture's colour profile.
    profile: ICC profile, or None for sRGB.
    exif: EXIF without orientation, thumbnail and maker note; empty if there is none.
    credit: `artist` and `copyright`, where the picture states them.
    notes: Phrases about what was changed by reading: "the first of 12 frames".
  """

  channels: np.ndarray
  profile: bytes | None = None
  exif: bytes = b""
  credit: dict[str, str] = dataclasses.field(default_factory=dict)
  notes: tuple[str, ...] = ()

  @property
  def colour(self) -> np.ndarray:
    """The pixels without alpha, `[H, W, 1 or 3]`, a view."""
    raise NotImplementedError

  @property
  def alpha(self) -> np.ndarray | None:
    """The alpha channel `[H, W]`, a view; None if the picture is opaque."""
    raise NotImplementedError


def read(path: str | os.PathLike, name: str | None = None) -> Picture:
  """Reads a picture from a regular file.

  Args:
    path: The file.
    name: Name in error messages; None takes the path.

  Raises:
    UserError: The file is not a regular file, does not decode or has too many pixels.
  """
  raise NotImplementedError


def decode(content: bytes, name: str) -> Picture:
  """Decodes a picture from the bytes of its file; see `read`."""
  raise NotImplementedError


def srgb(picture: Picture) -> np.ndarray:
  """Returns what networks see: uint8 sRGB `[H, W, 3]`, on white where it is transparent."""
  raise NotImplementedError


def squashed(picture: Picture, size: int) -> np.ndarray:
  """Returns the whole picture at the size of a network, uint8 sRGB `[size, size, 3]`, antialiased.

  Height and width shrink by different factors, so that no margin is cut off.
  """
  raise NotImplementedError
