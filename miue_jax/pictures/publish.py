"""Publishes pictures: reads, perturbs and encodes them, adds them to the key, and writes them."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from miue_jax.machine import files, leftovers, reading
from miue_jax.pictures import carry, decode, encode, entries, names, packing
from miue_jax.pictures.decode import Picture
from miue_jax.pictures.entries import Content, Entry
from miue_jax.pictures.key import Key, digest
from miue_jax.pictures.survey import Found
from miue_jax.settings.errors import UserError


@dataclasses.dataclass(frozen=True)
class Published:
  """Describes a published picture.

  Attributes:
    path: Path relative to the output, with its suffix.
    notes: Phrases about what was done: "the first of 12 frames", "published as PNG, because JPEG
      has no transparency".
  """

  path: str
  notes: tuple[str, ...]


def publish(
  root: str | os.PathLike,
  found: Found,
  delta: np.ndarray,
  out: str | os.PathLike,
  key: Key,
  *,
  kind: str = "png",
  keep_metadata: bool = False,
  drop_author: bool = False,
) -> Published | None:
  """Publishes one picture, unless the perturbation changes none of its pixels.

  It may be called from several threads.

  The entry of the key is on the disk before the published file gets its name, so that a program
  that is killed leaves no file that the key does not know.

  Args:
    root: Folder of the originals.
    found: The picture.
    delta: Perturbation int8 `[s, s, 3]` in 255ths.
    out: Folder of the published pictures.
    key: A key that is open for appending.
    kind: Format, a key of `encode.SUFFIX`. Pictures that it cannot hold become PNG.
    keep_metadata: Whether to keep EXIF values other than author and copyright.
    drop_author: Whether to drop author and copyright.

  Returns:
    What was published; None if nothing, because the picture would be unprotected.

  Raises:
    UserError: The picture cannot be decoded, or a file cannot be written.
  """
  source = os.path.join(root, found.path)
  with decode.room(source):
    original = decode.load(source)
    picture = decode.decode(original, found.path)
    kind, why = encode.format_for(picture, kind)
    path = found.published + encode.SUFFIX[kind]
    changed, corrections = carry.apply(picture.channels, delta)
    if np.array_equal(changed, picture.channels):
      return None
    public = dataclasses.replace(picture, channels=changed)
    file = encode.encode(public, kind, keep_metadata=keep_metadata, drop_author=drop_author)
    if kind == "jpeg":
      public = dataclasses.replace(public, channels=decode.decode(file, path).channels)
      how, extra = _from_jpeg(picture, public, delta, original)
    else:
      how, extra = entries.DELTA, corrections
    entry = Entry(
      found.path, found.class_name, path, digest(public.channels), digest(picture.channels)
    )
    if key.get(found.path) != entry:  # An interrupted run may have noted it already.
      content = Content(
        how,
        picture.channels.shape,
        8 * picture.channels.dtype.itemsize,
        None if how == entries.FILE else delta,
        extra,
        picture.profile,
        picture.exif,
      )
      key.add(entry, content)
    target = pathlib.Path(out) / path
    files.make_folder(target.parent)
    with files.replacing(target) as stream:
      stream.write(file)
    notes = (*picture.notes, *([f"published as {why}"] if why else []))
    return Published(path, notes)


def copy(entry: Entry, found: Found, out: str | os.PathLike, key: Key) -> Published:
  """Publishes the file of an entry once more, for another picture with the same pixels.

  Args:
    entry: The entry, whose file is there.
    found: The other picture.
    out: Folder of the published pictures.
    key: A key that is open for appending.

  Raises:
    UserError: A file cannot be read or written.
  """
  path = found.published + os.path.splitext(entry.published)[1]
  other = Entry(found.path, found.class_name, path, entry.digest, entry.source)
  if key.get(found.path) != other:  # An interrupted run may have noted it already.
    key.add(other, key.load(entry))
  target = pathlib.Path(out) / path
  files.make_folder(target.parent)
  with files.replacing(target) as stream:
    stream.write(decode.load(pathlib.Path(out) / entry.published))
  return Published(path, ())


def _from_jpeg(
  picture: Picture, public: Picture, delta: np.ndarray, original: bytes
) -> tuple[str, bytes]:
  """Returns the smaller of two ways to restore the original of a JPEG.

  They are `DIFFERENCE`, with the compressed difference, and `FILE`, with the original file.
  """
  difference = picture.channels - without(public.channels, delta)
  room = len(original) - len(entries.deflated(delta))
  stream, parts = packing.compressor(), []
  for rows in difference:
    parts.append(stream.compress(rows.tobytes()))
    room -= len(parts[-1])
    if room <= 0:
      return entries.FILE, original
  parts.append(stream.flush())
  if room <= len(parts[-1]):
    return entries.FILE, original
  return entries.DIFFERENCE, b"".join(parts)


def free_places(pictures: Sequence[Found], key: Key) -> list[Found]:
  """Returns pictures with paths at which they replace no published file of another picture.

  The order is kept. No published file has the name of a folder. A picture that was published before
  keeps its path.
  """
  known = [entry.published for entry in key.entries]
  published = {names.same(path) for path in known}
  folders = names.folders_of([*known, *(found.published for found in pictures)])
  stems = names.without_suffix(folders)
  taken = {names.same(os.path.splitext(e.published)[0]): "" for e in key.left}
  taken |= {names.same(os.path.splitext(e.published)[0]): e.name for e in key.entries}
  placed = []
  for found in pictures:
    entry = key.get(found.path)
    if entry and names.same(entry.published) not in folders:
      place, closed = os.path.splitext(entry.published)[0], set()
    else:
      place, closed = found.published, stems
    place = names.beside(place, published)
    while names.same(place) in closed or taken.get(names.same(place), found.path) != found.path:
      place += "_"
    taken[names.same(place)] = found.path
    placed.append(dataclasses.replace(found, published=place))
  return placed


def without(channels: np.ndarray, delta: np.ndarray) -> np.ndarray:
  """Returns published pixels uint8 `[H, W, 1 or 3]` minus the perturbation, modulo 256."""
  height, width, count = channels.shape
  strip = carry.carried(carry.luma(delta) if count == 1 else delta, height, width)
  return channels - strip.astype(np.uint8)


def is_altered(entry: Entry, out: str | os.PathLike) -> bool:
  """Returns whether a published file is there but no longer has the published pixels."""
  path = pathlib.Path(out) / entry.published
  if not files.is_file(path):
    return False
  try:
    with decode.room(path):
      return digest(decode.read(path, entry.published).channels) != entry.digest
  except UserError:
    return True


def all_published(out: str | os.PathLike) -> list[str]:
  """Returns the paths of all pictures in a published folder, relative to it, with "/", sorted.

  Links are not followed, and hidden files and folders are passed over.
  """
  suffixes = decode.readable_suffixes()
  return sorted(
    path
    for path in _below(out)
    if path.lower().endswith(suffixes) and not any(part[0] == "." for part in path.split("/"))
  )


def _below(root: str | os.PathLike) -> Iterator[str]:
  """Yields the relative path of every regular file."""
  pending = [""]
  while pending:
    prefix = pending.pop()
    for entry in reading.entries(pathlib.Path(root) / prefix):
      if entry.link:
        continue
      if entry.kind == "folder":
        pending.append(f"{prefix}{entry.name}/")
      elif entry.kind == "file":
        yield prefix + entry.name


def clear_leftovers(out: str | os.PathLike, *, shared: bool = False) -> int:
  """Removes the half-written files of programs that were killed; returns their number.

  Args:
    out: The folder.
    shared: Whether another program of this host may write to the folder, whose files then stay.
      Otherwise this program must be the only one, for example because it holds the lock of the key.
  """
  if not files.is_folder(out):
    return 0
  suffixes = decode.known_suffixes()
  found = [
    path
    for path in _below(out)
    if leftovers.is_half(path.rpartition("/")[2], suffixes, shared=shared)
  ]
  for path in found:
    files.remove(pathlib.Path(out) / path)
  return len(found)
