"""Holds what an owner asks for."""

import dataclasses
import pathlib

from miue_jax.owner import private
from miue_jax.pictures.key import default_path


@dataclasses.dataclass(frozen=True)
class Request:
  """Holds the wishes of an owner.

  Attributes:
    photos: Folder of the pictures.
    out: Folder of the published pictures.
    strength: One of `choose.STRENGTHS`; None is that of the key, or the default.
    seconds: Time that making and proving may take; None sets no limit.
    format: Format of the published files.
    keep_metadata: Whether to keep all EXIF values.
    strict: Whether a file that cannot be read is an error.
    labels: CSV file of classes; None takes folders.
    key: The key; None is next to `out`.
    passphrase: Encrypts the key.
    seed: Seed of every random draw; None draws one.
    clusters: Number of groups of pictures that have no labels; 0 takes classes.
    shareable: Whether to write a page without pictures and names as well.
  """

  photos: pathlib.Path
  out: pathlib.Path
  strength: str | None = None
  seconds: float | None = None
  format: str = "png"
  keep_metadata: bool = False
  strict: bool = False
  labels: pathlib.Path | None = None
  key: pathlib.Path | None = None
  passphrase: str | None = None
  seed: int | None = None
  shareable: bool = False
  clusters: int = 0

  @property
  def key_path(self) -> pathlib.Path:
    """Path of the key."""
    return self.key or default_path(self.out)

  @property
  def files(self) -> pathlib.Path:
    """Folder of the published files, from which an archive is packed."""
    return private.files_of(self.out)
