"""Surveys a folder of pictures: classes, pictures of each, and what is left out, by name."""

import dataclasses
import os
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Found:
  """Names one picture.

  Attributes:
    path: Path relative to the folder, with "/" and with its suffix.
    class_name: Name of its class; empty if the folder has no classes.
    split: Name of the split folder as it is written (`"Training"`), or None.
    published: Path without a suffix, distinct among all pictures: where the picture is published.
  """

  path: str
  class_name: str
  split: str | None
  published: str


@dataclasses.dataclass(frozen=True)
class LeftOut:
  """Names one file or folder that is not among the pictures.

  Attributes:
    path: Path relative to the folder, with "/".
    reason: Short phrase, such as "a hidden file".
  """

  path: str
  reason: str


@dataclasses.dataclass(frozen=True)
class Survey:
  """Describes a folder of pictures.

  Attributes:
    root: The folder.
    pictures: All pictures that can be read, sorted by path.
    left_out: Everything else.
    notes: Sentences about decisions, such as which folders are splits.
    duplicates: Groups of paths whose files have the same bytes.
  """

  root: str
  pictures: tuple[Found, ...]
  left_out: tuple[LeftOut, ...]
  notes: tuple[str, ...]
  duplicates: tuple[tuple[str, ...], ...]

  @property
  def class_names(self) -> tuple[str, ...]:
    """Names of the classes, sorted."""
    return tuple(sorted({found.class_name for found in self.pictures}))

  def counts(self) -> dict[str, int]:
    """Returns the number of pictures of each class, over all splits."""
    raise NotImplementedError

  def describe(self, most: int = 10) -> str:
    """Returns what was found in lines for a terminal; names at most `most` files per reason."""
    raise NotImplementedError


def survey(
  root: str | os.PathLike,
  *,
  exclude: Sequence[str | os.PathLike] = (),
  labels: str | os.PathLike | None = None,
  strict: bool = False,
) -> Survey:
  """Walks a folder of pictures once.

  The folder holds `<class>/...`, or `<split>/<class>/...`, or pictures without folders with a CSV
  file of labels. Top-level folders are splits if all of those that hold pictures have names such as
  `train`, `Training`, `val` or `Testing`, and they hold folders; otherwise they are classes.

  Args:
    root: The folder.
    exclude: Files and folders inside the folder that are not surveyed: the output, its key.
    labels: CSV file with the columns `file` and `class`; its paths are relative to the folder.
    strict: Whether a file that cannot be read is an error.

  Raises:
    UserError: There is no such folder, the CSV is unusable, or a file is broken and `strict`.
  """
  raise NotImplementedError
