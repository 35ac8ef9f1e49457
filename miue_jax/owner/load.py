"""Reads pictures into what networks see, on all cores."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from miue_jax.machine import progress, threads
from miue_jax.owner import pipelines
from miue_jax.pictures import carry, decode, entries
from miue_jax.pictures.key import Key, digest
from miue_jax.pictures.survey import Found
from miue_jax.settings.errors import UserError

Item = TypeVar("Item")

_FEW = 20  # pictures that are read for their size and colour
_NARROW = 2**14  # values: a quarter of 16 bits


@dataclasses.dataclass(frozen=True)
class Loaded:
  """Holds pictures as networks see them.

  Attributes:
    pictures: The pictures that could be read.
    sources: Digests of their pixels.
    small: Pictures at the size of the perturbation, as a source model sees them, uint8
      `[N, s, s, 3]`.
    seen: What victims see, uint8 `[N, v, v, 3]`.
    weights: Local contrast as `carry.contrast_weights` returns it, in 255ths, uint8 `[N, s, s]`.
    failed: Why each of the others could not be read, with its path.
  """

  pictures: tuple[Found, ...]
  sources: tuple[bytes, ...]
  small: np.ndarray
  seen: np.ndarray
  weights: np.ndarray
  failed: tuple[str, ...]

  def take(self, chosen: Sequence[int] | np.ndarray) -> "Loaded":
    """Returns some of the pictures, by their numbers."""
    rows = np.asarray(chosen, int)
    pictures, sources = (tuple(part[i] for i in rows) for part in (self.pictures, self.sources))
    small, seen, weights = (array[rows] for array in (self.small, self.seen, self.weights))
    return Loaded(pictures, sources, small, seen, weights, self.failed)


def load(
  root: str | os.PathLike,
  pictures: Sequence[Found],
  size: int,
  seen: int,
  *,
  floor: float = 1.0,
  quiet: bool = False,
  strict: bool = False,
) -> Loaded:
  """Reads pictures.

  Args:
    root: Folder of the pictures.
    pictures: The pictures.
    size: Side of what the source model sees, in pixels.
    seen: Side of what victims see.
    floor: Smallest weight, that of smooth areas; 1 gives every area the full weight.
    quiet: Whether to show no progress.
    strict: Whether a picture that cannot be read is an error.

  Raises:
    UserError: A picture cannot be read, and `strict` is True.
  """

  def read(found: Found) -> Any:
    path = pathlib.Path(root) / found.path
    with decode.room(path):
      try:
        picture = decode.read(path, found.path)
      except UserError as error:
        if strict:
          raise
        return str(error)
      weights = np.full((size, size), 255, np.uint8)
      if floor < 1:
        weights = np.rint(255 * carry.contrast_weights(picture, size, floor)).astype(np.uint8)
      squashed = (decode.squashed(picture, side) for side in (size, seen))
      return (digest(picture.channels), *squashed, weights)

  results = list(map(read, pictures) if quiet else progress.each_shown(read, pictures, "reading"))
  kept = [i for i, result in enumerate(results) if not isinstance(result, str)]
  sources, *arrays = zip(*(results[i] for i in kept), strict=True) if kept else ((), (), (), ())
  shapes = (0, size, size, 3), (0, seen, seen, 3), (0, size, size)
  small, views, weights = (
    np.stack(array) if array else np.zeros(shape, np.uint8)
    for array, shape in zip(arrays, shapes, strict=True)
  )
  failed = tuple(result for result in results if isinstance(result, str))
  return Loaded(tuple(pictures[i] for i in kept), tuple(sources), small, views, weights, failed)


def published(out: str | os.PathLike, secret: Key, loaded: Loaded, size: int) -> np.ndarray:
  """Returns the published files of some pictures as a network sees them, uint8 `[n, s, s, 3]`."""
  published = {entry.name: entry.published for entry in secret.entries}
  paths = [published[found.path] for found in loaded.pictures]
  return pipelines.loaded(out, paths, pipelines.WHOLE, size, "checking")


@dataclasses.dataclass(frozen=True)
class Sampled:
  """Describes what a few of the pictures are like.

  Attributes:
    side: Median of their shorter sides in pixels; 0 if none can be read.
    gray: Whether all look gray: they have one channel, or three equal ones.
    narrow: Whether one of 16 bits uses less than a quarter of its range, as 12 bits do.
  """

  side: int
  gray: bool
  narrow: bool


def sampled(root: str | os.PathLike, pictures: Sequence[Found]) -> Sampled:
  """Reads a few pictures."""

  def read(found: Found) -> tuple[int, bool, bool] | None:
    path = pathlib.Path(root) / found.path
    with contextlib.suppress(UserError), decode.room(path):  # `load` names what cannot be read
      picture = decode.read(path)
      gray = entries.canonical(picture.channels).shape[2] < 3
      narrow = picture.colour.dtype == np.uint16 and int(picture.colour.max()) < _NARROW
      return min(picture.colour.shape[:2]), gray, narrow
    return None

  known = [result for result in threads.each(read, some(pictures, _FEW)) if result]
  sides, gray, narrow = zip(*known, strict=True) if known else ((), (), ())
  return Sampled(int(np.median(sides)) if sides else 0, bool(gray) and all(gray), any(narrow))


def some(items: Sequence[Item], most: int) -> Sequence[Item]:
  """Returns at most `most` items, evenly spaced."""
  count = min(most, len(items))
  return [items[number * len(items) // count] for number in range(count)]


def named(paths: Iterable[str], most: int = 5) -> str:
  """Returns some paths as text, and how many more there are."""
  paths = list(paths)
  more = f" and {len(paths) - most} more" if len(paths) > most else ""
  return ", ".join(paths[:most]) + more
