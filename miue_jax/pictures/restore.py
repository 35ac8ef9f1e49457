"""Restores the originals of published pictures, which are known by their pixels."""

import dataclasses
import os
from collections.abc import Callable

from miue_jax.pictures.key import Key


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Describes what was restored.

  Attributes:
    restored: Paths in the destination.
    refused: Published file and reason, for every file that was not restored.
    missing: Original names of pictures that the key knows and that were not found.
  """

  restored: tuple[str, ...]
  refused: tuple[tuple[str, str], ...]
  missing: tuple[str, ...]


def restore(
  published: str | os.PathLike,
  destination: str | os.PathLike,
  key: Key,
  *,
  tick: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
  """Restores all pictures of a folder that the key knows; goes on after those that it does not.

  Args:
    published: Folder with published pictures in any order, under any names.
    destination: Folder for the originals; pictures that are already there are not made again.
    key: The key.
    tick: Is called with the pictures done and their number.

  Raises:
    UserError: There is no such folder, the destination lies in it or cannot be written.
  """
  raise NotImplementedError
