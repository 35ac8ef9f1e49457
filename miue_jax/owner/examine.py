"""Examines pictures before they are protected: broken files, duplicates, classes."""

import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from miue_jax.machine.terminal import counted
from miue_jax.owner import load, private
from miue_jax.owner.archive import as_folder
from miue_jax.owner.choose import FEW, LEAST
from miue_jax.owner.load import Loaded, named
from miue_jax.pictures import survey
from miue_jax.pictures.key import Key

_SIDE = 32  # pixels a side of what is compared
_GRID = 9, 8  # of the brightness steps, which make 64 bits
_NEAR = 4  # bits that near duplicates may differ in
_BLOCK = 1024
_IMBALANCE = 3  # times as many pictures


def examine(
  photos: pathlib.Path,
  labels: pathlib.Path | None,
  key: pathlib.Path | None,
  passphrase: str | None,
  public: pathlib.Path | None,
  say: Callable[[str], None],
  *,
  unlabelled: bool = False,
) -> None:
  """Prints what an owner should know about pictures before they are protected.

  Args:
    photos: The folder or archive.
    labels: CSV file of classes, or None.
    key: Key of a published folder: its pictures are recognised.
    passphrase: Passphrase of the key.
    public: Folder or archive of pictures that anybody can have, or None.
    say: Prints a line.
    unlabelled: Whether the pictures have no classes.

  Raises:
    UserError: There is no such folder, or the key cannot be read.
  """
  with as_folder(photos, labels) as folder:
    found = survey.survey(folder, labels=labels, unlabelled=unlabelled)
    say(found.describe())
    loaded = load.load(folder, found.pictures, _SIDE, _SIDE)
  for reason in loaded.failed:
    say(f"Broken: {reason}")
  _tell_duplicates(loaded, say)
  if not unlabelled:
    _tell_classes(found.counts(), say)
  if key:
    with Key.open(key, passphrase) as secret:
      originals = {entry.source for entry in secret.entries}
      pairs = zip(loaded.pictures, loaded.sources, strict=True)
      known = [
        picture.path for picture, digest in pairs if digest in originals or secret.find(digest)
      ]
    said = f"Protected already with this key: {counted(len(known), 'picture')}"
    say(f"{said} ({named(known)})." if known else f"{said}.")
  if public:
    _tell_public(loaded, public, say)
  private.repeat_about(photos, say)


def _tell_duplicates(loaded: Loaded, say: Callable[[str], None]) -> None:
  """Prints the pictures that are the same, or nearly."""
  groups: dict[bytes, list[int]] = {}
  for number, digest in enumerate(loaded.sources):
    groups.setdefault(digest, []).append(number)
  for numbers in groups.values():
    if len(numbers) > 1:
      group = [loaded.pictures[number] for number in numbers]
      say(f"The same picture{_across(group)}: {named(found.path for found in group)}.")
  firsts = [numbers[0] for numbers in groups.values()]
  for first, second in near(loaded.small[firsts]):
    pair = [loaded.pictures[firsts[number]] for number in (first, second)]
    say(f"Nearly the same picture{_across(pair)}: {named(found.path for found in pair)}.")


def _tell_classes(counts: Mapping[str, int], say: Callable[[str], None]) -> None:
  """Prints the classes that are small or unequal."""
  for name, count in counts.items():
    if count < FEW:
      what = f"with fewer than {FEW}, expect little or no protection"
      if count < LEAST:
        what += f", and with fewer than {LEAST} nothing can be tested"
      say(f"Class {name!r} has only {counted(count, 'picture')}: {what}.")
  if counts and max(counts.values()) > _IMBALANCE * min(counts.values()):
    most, least = (pick(counts, key=lambda name: counts[name]) for pick in (max, min))
    say(f"The classes are unequal: {counts[most]} of {most!r}, {counts[least]} of {least!r}.")


def _tell_public(loaded: Loaded, public: pathlib.Path, say: Callable[[str], None]) -> None:
  """Prints the pictures that are among public ones, or nearly, and cannot be protected any more."""
  with as_folder(public) as folder:
    others = load.load(folder, survey.survey(folder, unlabelled=True).pictures, _SIDE, _SIDE)
  images = np.concatenate([loaded.small, others.small])
  count, there = len(loaded.pictures), set(others.sources)
  known = {number for number, digest in enumerate(loaded.sources) if digest in there}
  known |= {first for first, second in near(images) if first < count <= second}
  said = f"Also in {public}, or nearly the same there: {len(known)} of {counted(count, 'picture')}"
  paths = [loaded.pictures[number].path for number in sorted(known)]
  say(f"{said}. They cannot be protected any more: {named(paths)}." if known else f"{said}.")


def _across(group: Sequence[survey.Found]) -> str:
  """Returns what makes duplicates worse: different classes, or training and test set."""
  if len({found.class_name for found in group}) > 1:
    return " in different classes"
  return " in different splits" if len({found.split for found in group}) > 1 else ""


def near(images: np.ndarray) -> list[tuple[int, int]]:
  """Returns pairs of images uint8 `[N, s, s, 3]` that look nearly the same.

  Pictures are compared by 64 bits: whether brightness rises between neighbours of a 9 x 8 grid
  ("difference hash").
  """
  if not len(images):
    return []
  gray = images.astype(np.float32).mean(axis=3)
  side = gray.shape[1]
  columns, rows = (np.arange(n + 1) * side // n for n in _GRID)
  cells = np.add.reduceat(np.add.reduceat(gray, rows[:-1], axis=1), columns[:-1], axis=2)
  cells /= np.diff(rows)[:, None] * np.diff(columns)
  bits = (np.diff(cells, axis=2) > 0).reshape(len(images), -1)
  hashes = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
  pairs = []
  for start in range(0, len(hashes), _BLOCK):
    block = hashes[start : start + _BLOCK, None]
    close = np.bitwise_count(block ^ hashes) <= _NEAR
    first, second = np.nonzero(close)
    later = second > first + start
    pairs += zip((first[later] + start).tolist(), second[later].tolist(), strict=True)
  return pairs
