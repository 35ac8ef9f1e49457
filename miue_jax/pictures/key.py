"""Reads and writes the key of a published folder, one file to which pictures are appended."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Entry:
  """Describes one published picture; what is large stays in the file until it is loaded.

  Attributes:
    name: Path of the original, relative to its folder, with "/" and suffix.
    class_name: Its class.
    published: Path of the published file, relative to its folder.
    digest: Digest of the published pixels, 32 bytes (`digest`).
    source: Digest of the original pixels, 32 bytes: tells whether the original has changed.
  """

  name: str
  class_name: str
  published: str
  digest: bytes
  source: bytes


def digest(channels: np.ndarray) -> bytes:
  """Returns the sha256 of stored pixels, with their shape and type.

  Pixels that look the same have the same digest: gray stored as RGB, an opaque alpha channel and 8
  bits stored as 16 do not count.
  """
  raise NotImplementedError


class Key:
  """Provides a key that is open for reading, and for appending if it was opened so."""

  settings: dict[str, Any]  # what the program that made the key wants to find again, such as a seed

  @classmethod
  def create(
    cls, path: str | os.PathLike, settings: dict[str, Any], passphrase: str | None = None
  ) -> "Key":
    """Makes a new key, readable by its owner only, and opens it for appending.

    Raises:
      UserError: The file exists or cannot be written, or a passphrase is given without `pyrage`.
    """
    raise NotImplementedError

  @classmethod
  def open(
    cls, path: str | os.PathLike, passphrase: str | None = None, *, append: bool = False
  ) -> "Key":
    """Opens a key, which is not trusted.

    Raises:
      UserError: The file is no key, is damaged, needs another passphrase, or another program
        appends to it.
    """
    raise NotImplementedError

  @property
  def entries(self) -> Sequence[Entry]:
    """The entry of every picture, the latest for a name."""
    raise NotImplementedError

  def find(self, digest: bytes) -> list[Entry]:
    """Returns the entries of published pixels."""
    raise NotImplementedError

  def update(self, settings: dict[str, Any]) -> None:
    """Replaces the settings, on the disk too."""
    raise NotImplementedError

  def close(self) -> None:
    """Closes the file."""
    raise NotImplementedError

  def __enter__(self) -> "Key":
    return self

  def __exit__(self, *_) -> None:
    self.close()


def default_path(out: str | os.PathLike) -> pathlib.Path:
  """Returns the default place of the key: `OUT.key` next to `OUT`."""
  raise NotImplementedError
