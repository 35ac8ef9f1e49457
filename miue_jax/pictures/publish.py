"""Publishes pictures: reads, perturbs, encodes, notes the key, writes."""

import dataclasses
import os
import pathlib

import numpy as np

from miue_jax.pictures.key import Key
from miue_jax.pictures.quality import Quality
from miue_jax.pictures.survey import Found


@dataclasses.dataclass(frozen=True)
class Options:
  """Says how pictures are published.

  Attributes:
    format: `png`, `webp` or `jpeg`.
    keep_metadata: Whether to keep all EXIF values.
    jpeg_quality: Quality of JPEG.
    measure: Whether to measure the visible difference of every picture.
  """

  format: str = "png"
  keep_metadata: bool = False
  jpeg_quality: int = 95
  measure: bool = False


@dataclasses.dataclass(frozen=True)
class Published:
  """Describes a published picture.

  Attributes:
    path: Path relative to the output, with its suffix.
    notes: Phrases about what was done: "the first of 12 frames", "as PNG: JPEG has no alpha".
    quality: Visible difference, if it was measured.
  """

  path: str
  notes: tuple[str, ...]
  quality: Quality | None


def publish(
  root: str | os.PathLike,
  found: Found,
  delta: np.ndarray,
  out: str | os.PathLike,
  key: Key,
  options: Options,
) -> Published:
  """Publishes one picture; may be called from several threads.

  The entry of the key is on the disk before the published file gets its name, so that a program
  that is killed leaves no file that the key does not know.

  Args:
    root: Folder of the originals.
    found: The picture.
    delta: Perturbation int8 `[s, s, 3]` in 255ths.
    out: Folder of the published pictures.
    key: A key that is open for appending.
    options: How to publish.

  Raises:
    UserError: The picture does not decode, or a file cannot be written.
  """
  raise NotImplementedError


def is_published(found: Found, out: str | os.PathLike, key: Key, source: bytes) -> bool:
  """Returns whether a picture with these original pixels is already in the output and the key."""
  raise NotImplementedError


def all_published(out: str | os.PathLike) -> list[pathlib.PurePosixPath]:
  """Returns the paths of all pictures in a published folder, relative to it and sorted."""
  raise NotImplementedError
