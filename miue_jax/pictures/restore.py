"""Restores the originals of published pictures, which are known by their pixels."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import threading

import numpy as np
import tqdm

from miue_jax.machine import files, reading, threads
from miue_jax.pictures import carry, decode, encode, entries, names
from miue_jax.pictures.decode import Picture
from miue_jax.pictures.entries import Content, Entry
from miue_jax.pictures.key import Key, digest
from miue_jax.pictures.publish import all_published, clear_leftovers, without
from miue_jax.settings.errors import UserError

_UNKNOWN = "not in this key, or altered, as by saving as JPEG"
_ALTERED = "altered since it was published"


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

  @property
  def strange(self) -> bool:
    """Returns whether there are pictures, and the key knows none of them."""
    reasons = {reason for _, reason in self.refused}
    return not self.restored and bool(reasons) and reasons <= {_UNKNOWN, _ALTERED}


def nothing(key: Key, count: str, place: str | os.PathLike) -> str:
  """Returns the sentence that a key knows none of the pictures in a place.

  `count` is the number of pictures in words.
  """
  return (
    f"Nothing was restored: the key {key.path} knows none of {count} in {place}. Give the key that "
    "was made with them; what was altered since, as by saving as JPEG, cannot be restored."
  )


def restore(published: str | os.PathLike, destination: str | os.PathLike, key: Key) -> Outcome:
  """Restores all pictures of a folder that the key knows, and lists the others.

  A terminal shows a progress bar.

  Args:
    published: Folder with published pictures in any order, under any names.
    destination: Folder for the originals; pictures that are already there are not made again.
    key: The key.

  Raises:
    UserError: There is no such folder, or the destination lies in it or cannot be written.
  """
  published, destination = pathlib.Path(published), pathlib.Path(destination)
  if not files.is_folder(published):
    raise UserError(f"{published} is not a folder: name the folder of published pictures.")
  check_apart(published, destination)
  files.make_folder(destination)
  clear_leftovers(destination, shared=True)
  paths = all_published(published)
  claims = _Claims(key)
  refused, restored = [], set()
  work = functools.partial(_restore_one, published, destination, key, claims)
  results = threads.each(work, paths)
  hidden = not os.isatty(2)
  shown = tqdm.tqdm(results, "restoring", len(paths), unit="picture", disable=hidden)
  for path, (original, reason) in zip(paths, shown, strict=True):
    if reason:
      refused.append((path, reason))
    else:
      restored.add(original)
  found = {claims.names.get(names.same(path)) for path, _ in refused} | claims.taken
  missing = [entry.name for entry in key.entries if entry.name not in found]
  return Outcome(tuple(sorted(restored)), tuple(refused), tuple(sorted(missing)))


def check_apart(published: pathlib.Path, destination: pathlib.Path) -> None:
  """Checks that originals are not restored into the published folder.

  Raises:
    UserError: The destination lies in the folder.
  """
  if files.resolved(destination).is_relative_to(files.resolved(published)):
    same = files.resolved(destination) == files.resolved(published)
    where = "is the folder of published pictures" if same else f"lies in {published}"
    raise UserError(f"{destination} {where}: choose a folder outside of it.")


class _Claims:
  """Gives each of several equal pictures a different entry.

  Attributes:
    names: Names of the originals, by the paths of the published files in the form of `names.same`.
    taken: Names of the originals whose entries were given.
  """

  def __init__(self, key: Key):
    self.names = {names.same(entry.published): entry.name for entry in key.entries}
    self._key, self._guard = key, threading.Lock()
    self.taken: set[str] = set()

  def take(self, mark: bytes, path: str) -> Entry | None:
    """Returns the entry of published pixels: that of the same path or file name if possible."""
    found = self._key.find(mark)
    if not found:
      return None
    with self._guard:
      same = [entry for entry in found if names.same(entry.published) == names.same(path)]
      free = [entry for entry in found if entry.name not in self.taken]
      alike = [entry for entry in free if _file_name(entry.published) == _file_name(path)]
      entry = (same or alike or free or found)[0]
      self.taken.add(entry.name)
    return entry


def _file_name(path: str) -> str:
  return names.same(path).rpartition("/")[2]


def _restore_one(
  published: pathlib.Path, destination: pathlib.Path, key: Key, claims: _Claims, path: str
) -> tuple[str, str]:
  """Restores one picture; returns its path, and why it cannot be restored, or an empty text."""
  with decode.room(published / path):
    try:
      public = decode.read(published / path, path)
    except UserError as error:
      return "", str(error).removeprefix(path).strip()
    entry = claims.take(digest(public.channels), path)
    if entry is None:
      return "", _ALTERED if names.same(path) in claims.names else _UNKNOWN
    try:
      original, name = _original(public.channels, key.load(entry), entry)
    except UserError as error:
      return "", str(error)
    target = destination / name
    if files.exists(target):
      if _is(target, entry, original):
        return name, ""
      return "", f"{target} exists and is another picture"
    files.make_folder(target.parent)
    if not files.resolved(target.parent).is_relative_to(files.resolved(destination)):
      return "", f"{target.parent} is a link that leaves {destination}"
    with files.replacing(target) as stream:
      if isinstance(original, Picture):
        original = encode.encode(original, "png", keep_metadata=True)
      stream.write(original)
    return name, ""


def _original(channels: np.ndarray, content: Content, entry: Entry) -> tuple[Picture | bytes, str]:
  """Returns an original, or its file if the key holds that, and its path.

  Raises:
    UserError: The key is damaged.
  """
  if content.how == entries.FILE:
    # It is not decoded: that may need a package. Its bytes have their checksum in the key.
    if os.path.splitext(entry.name)[1].lower() not in decode.known_suffixes():
      raise UserError("its entry in the key is damaged")
    return content.extra, entry.name
  original = Picture(original_pixels(channels, content), content.profile, content.exif)
  if digest(original.channels) != entry.source:
    raise UserError("its entry in the key is damaged")
  return original, os.path.splitext(entry.published)[0] + ".png"


def _is(target: pathlib.Path, entry: Entry, original: Picture | bytes) -> bool:
  """Returns whether a file holds the original of an entry."""
  if isinstance(original, bytes):
    with contextlib.suppress(UserError):  # it is larger
      if reading.read_bytes(target, len(original)) == original:
        return True
  with contextlib.suppress(UserError):
    return digest(decode.read(target).channels) == entry.source
  return False


def known_pixels(channels: np.ndarray, key: Key) -> np.ndarray | None:
  """Returns the original pixels of published ones, `[H, W, C]`.

  Returns None if the key does not know them, or stores the original file instead.

  Raises:
    UserError: The key is damaged.
  """
  for entry in key.find(digest(channels)):
    content = key.load(entry)
    if content.how != entries.FILE:
      original = original_pixels(channels, content)
      if digest(original) == entry.source:
        return original
  return None


def original_pixels(channels: np.ndarray, content: Content) -> np.ndarray:
  """Returns the original pixels of published ones.

  Raises:
    UserError: The pixels do not belong to this entry.
  """
  height, width, count = content.shape
  if channels.shape[:2] != (height, width) or content.delta is None:
    raise UserError("These pixels do not belong to this key: use the key of this folder.")
  try:
    channels = entries.expanded(channels, count, content.bits)
  except ValueError as error:
    raise UserError(f"These pixels do not belong to this key ({error}).") from error
  if content.how == entries.DELTA:
    return carry.remove(channels, content.delta, content.extra)
  size = height * width * count
  difference = entries.inflated(content.extra, size, "The key")
  if len(difference) != size or count not in (1, 3) or content.bits != 8:
    raise UserError("The key is damaged: copy it again.")
  values = np.frombuffer(difference, np.uint8).reshape(channels.shape)
  return without(channels, content.delta) + values
