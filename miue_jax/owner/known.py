"""Recognises pictures by their pixels: those that were renamed, copied or published before.

Anyone who has two versions of a picture with different perturbations can average them. A picture is
therefore never published with a second perturbation while the first one is known.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterable

import numpy as np

from miue_jax.machine import files, reading
from miue_jax.machine.terminal import counted, say
from miue_jax.owner.load import Loaded, named
from miue_jax.pictures import publish
from miue_jax.pictures.entries import Entry
from miue_jax.pictures.key import KEY_SUFFIX, Key
from miue_jax.settings.errors import UserError


@dataclasses.dataclass(frozen=True)
class Known:
  """Holds what the key knows of a picture that is to be published.

  Attributes:
    entry: Entry of the same pixels.
    delta: The perturbation; None if the key has the original file instead, so that only the
      published file can be copied.
  """

  entry: Entry
  delta: np.ndarray | None


def renamed(loaded: Loaded, secret: Key) -> list[tuple[Entry, str]]:
  """Returns entries of pictures that were renamed inside of their class, with their new paths.

  An entry whose original is still at its path belongs to that one.
  """
  there = {found.path: s for found, s in zip(loaded.pictures, loaded.sources, strict=True)}
  free: dict[tuple[bytes, str], list[Entry]] = {}
  for entry in (*secret.left, *secret.entries):
    if there.get(entry.name) != entry.source:
      free.setdefault((entry.source, entry.class_name), []).append(entry)
  moves = []
  for found, source in zip(loaded.pictures, loaded.sources, strict=True):
    own, others = secret.get(found.path), free.get((source, found.class_name))
    if others and (own is None or own.source != source):
      moves.append((others.pop(), found.path))
  return moves


def rename(loaded: Loaded, secret: Key) -> None:
  """Notes the new paths of renamed pictures in the key; published files stay where they are."""
  moves = renamed(loaded, secret)
  for entry, path in moves:
    secret.add(dataclasses.replace(entry, name=path), secret.load(entry))
  if moves:
    say(
      f"Renamed since they were published: {counted(len(moves), 'picture')} "
      f"({named(path for _, path in moves)}). Published files keep their names."
    )


def reclassify(loaded: Loaded, secret: Key, verdict: pathlib.Path) -> None:
  """Notes in the key which pictures are in another class now, and removes the verdict if any are.

  Published files, and with them their perturbations, stay as they are.
  """
  moves = [
    (entry, found)
    for found, source in zip(loaded.pictures, loaded.sources, strict=True)
    if (entry := secret.get(found.path))
    and entry.source == source
    and entry.class_name != found.class_name
  ]
  if not moves:
    return
  say(
    f"In another class since they were published: {counted(len(moves), 'picture')} "
    f"({named(entry.name for entry, _ in moves)}). They keep the perturbation of the old class, "
    "and the test is repeated."
  )
  files.remove(verdict)  # first, because an interrupted command must not leave it
  for entry, found in moves:
    secret.add(dataclasses.replace(entry, class_name=found.class_name), secret.load(entry))


def of_missing(
  loaded: Loaded, todo: np.ndarray, secret: Key, out: pathlib.Path
) -> dict[int, Known]:
  """Returns what the key knows of the pictures to publish, whose numbers are `todo`.

  A picture whose published file was lost gets the same pixels again. A copy of another picture,
  even in another class, gets the published pixels of that picture. A picture that is back under a
  name that another one had gets its own published pixels.
  """
  entries: dict[bytes, list[Entry]] = {}
  for entry in (*secret.entries, *secret.former):
    entries.setdefault(entry.source, []).append(entry)
  found = {}
  for number in map(int, todo):
    own, same = secret.get(loaded.pictures[number].path), entries.get(loaded.sources[number], [])
    for entry in sorted(same, key=lambda entry: entry != own):
      delta = secret.load(entry).delta
      if delta is not None or (
        files.is_file(out / entry.published) and not publish.is_altered(entry, out)
      ):
        found[number] = Known(entry, delta)
        break
  return found


def protected(loaded: Loaded, secret: Key) -> list[str]:
  """Returns the paths of pictures that are originals or published files of a key."""
  originals = {entry.source for entry in (*secret.entries, *secret.former)}
  pairs = zip(loaded.pictures, loaded.sources, strict=True)
  return [picture.path for picture, digest in pairs if digest in originals or secret.find(digest)]


def tell_protected(
  loaded: Loaded,
  folders: Iterable[pathlib.Path],
  passphrase: str | None,
  warning: str = "",
) -> None:
  """Prints the pictures that keys in folders know; passes over keys that cannot be opened.

  `warning` ends each line.
  """
  for path in (path for folder in folders for path in _keys_in(folder)):
    with contextlib.suppress(UserError), Key.open(path, passphrase) as secret:
      if paths := protected(loaded, secret):
        pictures = f"{counted(len(paths), 'picture')} ({named(paths)})"
        say(f"Protected already with the key {path}: {pictures}.{warning}")


def _keys_in(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files in a folder that have the name of a key; none if it cannot be listed."""
  with contextlib.suppress(UserError):  # what is next to the pictures may be anything
    listed = [entry for entry in reading.entries(folder) if entry.kind == "file" and not entry.link]
    return [folder / entry.name for entry in listed if entry.name.endswith(KEY_SUFFIX)]
  return []
