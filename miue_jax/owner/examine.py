"""Examines pictures before they are protected: broken files, duplicates, classes."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from miue_jax.machine import files
from miue_jax.machine.terminal import counted, say
from miue_jax.owner import clusters, known, load, private
from miue_jax.owner.archive import as_folder
from miue_jax.owner.choose import FEW, LEAST
from miue_jax.owner.load import Loaded, named
from miue_jax.pictures import survey
from miue_jax.pictures.key import Key
from miue_jax.settings.errors import UserError

_SIDE = 32  # pixels a side of what is compared
_GRID = 8  # cells a side whose brightness is compared
# Correlation of near duplicates. Of 17 million pairs of different X-rays (PneumoniaMNIST), 6 exceed
# it. All copies that were resized or saved as JPEG again exceed it, but only some cropped ones.
_NEAR = 0.98
_FLAT = 2.0  # standard deviation of the cells, below which a picture shows nothing to compare
_BLOCK = 256
_SHOWN = 10  # groups of duplicates that are listed
_IMBALANCE = 3  # times as many pictures


def examine(
  photos: pathlib.Path,
  labels: pathlib.Path | None,
  key: pathlib.Path | None,
  passphrase: str | None,
  public: pathlib.Path | None,
  *,
  groups: int = 0,
) -> None:
  """Prints what an owner should know about pictures before they are protected.

  Args:
    photos: The folder or archive.
    labels: CSV file of classes, or None.
    key: Key of a published folder: its pictures are recognised. None tries the keys next to
      `photos`.
    passphrase: Passphrase of the key.
    public: Folder or archive of pictures that are public already, or None.
    groups: Number of groups that replace the classes, or 0.

  Raises:
    UserError: There is no such folder, the key cannot be read, there are too few pictures for the
      groups, or `public` is `photos` or a published folder.
  """
  if public and files.resolved(public) == files.resolved(photos):
    raise UserError(f"--public {public} is {photos} itself: give a folder of public pictures.")
  if public and files.is_folder(private.path_of(public)):
    raise UserError(
      f"--public {public} holds pictures that this program protected, whose originals are not "
      "public: give a folder of other pictures."
    )
  with as_folder(photos, labels) as folder:
    found = survey.survey(folder, labels=labels, unlabelled=groups > 0)
    # `_tell_duplicates` names the exact ones as well.
    say(dataclasses.replace(found, duplicates=()).describe())
    counts = clusters.counts(found, groups)
    loaded = load.load(folder, found.pictures, _SIDE, _SIDE)
  for reason in loaded.failed:
    say(f"Broken: {reason}")
  _tell_duplicates(loaded)
  if not groups:
    _tell_classes(counts)
  if key:
    with Key.open(key, passphrase) as secret:
      paths = known.protected(loaded, secret)
    said = f"Protected already with this key: {counted(len(paths), 'picture')}"
    say(f"{said} ({named(paths)})." if paths else f"{said}.")
  else:
    known.tell_protected(loaded, [photos.absolute().parent], passphrase)
  if public:
    _tell_public(loaded, public, photos)
  private.repeat_about(photos)


def _tell_duplicates(loaded: Loaded) -> None:
  """Prints the pictures that are the same, or nearly."""
  same: dict[bytes, list[int]] = {}
  for number, digest in enumerate(loaded.sources):
    same.setdefault(digest, []).append(number)
  firsts = [numbers[0] for numbers in same.values()]
  alike = _groups(near(loaded.small[firsts]), len(firsts))
  _tell_groups(loaded, "The same", [group for group in same.values() if len(group) > 1])
  _tell_groups(loaded, "Nearly the same", [[firsts[i] for i in group] for group in alike])


def _tell_groups(loaded: Loaded, said: str, groups: Sequence[Sequence[int]]) -> None:
  """Prints some groups of duplicates, the worst first, and how many more there are."""
  found = [[loaded.pictures[number] for number in group] for group in groups]
  found.sort(key=_across, reverse=True)
  for group in found[:_SHOWN]:
    say(f"{said} picture{_across(group)}: {named(picture.path for picture in group)}.")
  if rest := found[_SHOWN:]:
    pictures = counted(sum(map(len, rest)), "picture")
    say(f"{said} picture, not listed: {counted(len(rest), 'more group')} of {pictures}.")


def _tell_classes(counts: Mapping[str, int]) -> None:
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


def _tell_public(loaded: Loaded, public: pathlib.Path, photos: pathlib.Path) -> None:
  """Prints the pictures that are among public ones, or nearly, and cannot be protected any more."""
  with as_folder(public) as folder:
    # A folder above the pictures would show them as their own public copies.
    found = survey.survey(folder, exclude=(photos,), unlabelled=True)
    others = load.load(folder, found.pictures, _SIDE, _SIDE)
  images = np.concatenate([loaded.small, others.small])
  count, there = len(loaded.pictures), set(others.sources)
  known = {number for number, digest in enumerate(loaded.sources) if digest in there}
  known |= {first for first, second in near(images).tolist() if first < count <= second}
  said = f"Also in {public}, or nearly the same there: {len(known)} of {counted(count, 'picture')}"
  paths = [loaded.pictures[number].path for number in sorted(known)]
  say(f"{said}. They cannot be protected any more: {named(paths)}." if known else f"{said}.")


def _across(group: Sequence[survey.Found]) -> str:
  """Returns what makes duplicates worse: different classes, or training and test set."""
  if len({found.class_name for found in group}) > 1:
    return " in different classes"
  return " in different splits" if len({found.split for found in group}) > 1 else ""


def near(images: np.ndarray) -> np.ndarray:
  """Returns pairs of images uint8 `[N, s, s, 3]` that look nearly the same, int `[P, 2]`.

  Pictures are compared by the correlation of their brightness on a grid of 8 x 8 cells. A picture
  of nearly uniform brightness is in no pair.
  """
  side = images.shape[1]
  gray = images.astype(np.float32).mean(axis=3)
  starts = np.arange(_GRID + 1) * side // _GRID
  cells = np.add.reduceat(np.add.reduceat(gray, starts[:-1], axis=1), starts[:-1], axis=2)
  cells /= np.diff(starts)[:, None] * np.diff(starts)
  cells = cells.reshape(len(images), _GRID**2)
  cells -= cells.mean(axis=1, keepdims=True)
  spread = cells.std(axis=1)
  (told,) = np.nonzero(spread >= _FLAT)
  cells = cells[told] / (spread[told, None] * _GRID)
  pairs = [np.zeros((0, 2), int)]
  for start in range(0, len(cells), _BLOCK):
    first, second = np.nonzero(cells[start : start + _BLOCK] @ cells.T > _NEAR)
    later = second > first + start
    pairs.append(np.stack([told[first[later] + start], told[second[later]]], axis=1))
  return np.concatenate(pairs)


def _groups(pairs: np.ndarray, count: int) -> list[list[int]]:
  """Returns the groups of two or more numbers below `count` that pairs connect."""
  ones = np.ones(len(pairs), bool)
  _, names = connected_components(coo_array((ones, (pairs[:, 0], pairs[:, 1])), (count, count)))
  groups: dict[int, list[int]] = {}
  for number in np.unique(pairs).tolist():
    groups.setdefault(int(names[number]), []).append(number)
  return list(groups.values())
