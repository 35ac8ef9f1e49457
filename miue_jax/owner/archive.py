"""Reads, writes and restores archives of images, `.npz` files in MedMNIST's or Keras's layout."""

import contextlib
import pathlib
import tempfile
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np

from miue_jax.data import arrays as checks
from miue_jax.machine import archives, files, progress, reading, room
from miue_jax.machine.terminal import counted, say
from miue_jax.pictures import decode, encode, publish, restore
from miue_jax.pictures.key import Key
from miue_jax.settings.errors import UserError

SUFFIX = ".npz"
PARTS = ("train", "val", "test")
_LAYOUTS = ("{}_images", "{}_labels"), ("x_{}", "y_{}")
_OTHERS = ("class_names",)  # arrays that are neither images nor labels
_COPIES = 3  # in memory: as they are stored, published, and in compression
_NAMED = 5  # images in a message

Arrays = Mapping[str, Any]


def is_archive(path: pathlib.Path) -> bool:
  """Returns whether a path is that of an archive."""
  return path.suffix == SUFFIX and files.is_file(path)


def found_in(out: pathlib.Path) -> list[pathlib.Path]:
  """Returns the archives that a path stands for: the file itself, or those in a folder.

  Raises:
    UserError: The folder cannot be listed.
  """
  if not files.is_folder(out):
    return [out] if is_archive(out) else []
  listed = [entry.name for entry in reading.entries(out) if entry.kind == "file" and not entry.link]
  return [out / name for name in listed if name.endswith(SUFFIX) and not name.startswith(".")]


def unprotect(path: pathlib.Path, destination: pathlib.Path, key: Key) -> bool:
  """Restores an archive into a folder, and prints which images were not restored.

  Args:
    path: The published archive, or a part of it in any order.
    destination: Folder of the restored archive.
    key: Its key.

  Returns:
    Whether all images were restored. The others stay as they were published.

  Raises:
    UserError: The file is not such an archive, or the destination has another one.
  """
  content, target = read(path), destination / path.name
  restored, refused = dict(content), []
  for images, _ in pairs(content):
    rows = content[images].copy()
    for row, public in enumerate(rows):
      original = restore.known_pixels(channels(public), key)
      if original is None or original.size != public.size:
        refused.append(f"{images}[{row}]")
      else:
        rows[row] = original.reshape(public.shape)
    restored[images] = rows
  count = sum(len(content[images]) for images, _ in pairs(content))
  if len(refused) == count:
    say(restore.nothing(key, counted(count, "image"), path))
    return False
  if files.exists(target):
    there = read(target)
    if there.keys() != restored.keys() or not all(map(_same, there.values(), restored.values())):
      raise UserError(f"{target} exists and is another archive: choose another folder.")
  else:
    write(target, restored)
  say(f"{count - len(refused)} of {count} original images are in {target}.")
  if refused:
    named = ", ".join(refused[:_NAMED]) + (", ..." if len(refused) > _NAMED else "")
    say(f"Not in this key, or altered, and left as they were published: {named}.")
  return not refused


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the arrays of an archive, after checks of images and labels.

  Raises:
    UserError: It cannot be read, or holds anything but images, labels and names of classes.
  """
  archive = archives.Archive(path)
  named = pairs(archive)
  known = {name for pair in named for name in pair}
  if not named or not known <= archive.keys():
    raise UserError(
      f"{path} holds {archive}; it needs images and their labels, such as train_images and "
      "train_labels, or x_train and y_train."
    )
  if others := sorted(archive.keys() - known - set(_OTHERS)):
    raise UserError(
      f"{path} holds {others[0]}, which is neither images nor labels and would be published as it "
      "is: remove it."
    )
  size, free = sum(archive.header(name).bytes for name in archive), room.limit()
  if _COPIES * size > free:
    raise UserError(
      f"{path} takes {_COPIES} times {size:,} bytes in memory, and {free:,} are left: make smaller "
      "archives, or a folder of pictures."
    )
  content = {name: archive[name] for name in archive}
  for images, labels in named:
    shaped = checks.images(content[images], f"{images} of {path}")
    checks.labels(content[labels], len(shaped), f"{labels} of {path}")
  return content


def pairs(content: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
  """Returns the names of images and labels of each part."""
  return [
    (images.format(part), labels.format(part))
    for images, labels in _LAYOUTS
    for part in PARTS
    if images.format(part) in content or labels.format(part) in content
  ]


def part_of(images: str) -> str:
  """Returns the part, such as "train", of an array of images."""
  return next(part for part in PARTS if part in images)


def channels(pixels: np.ndarray) -> np.ndarray:
  """Returns an image `[H, W]` or `[H, W, C]` with its axis of channels."""
  return np.ascontiguousarray(pixels[..., None] if pixels.ndim == 2 else pixels)


def _same(first: np.ndarray, second: np.ndarray) -> bool:
  return first.dtype == second.dtype and np.array_equal(first, second)


def write(path: pathlib.Path, content: Arrays) -> None:
  """Writes an archive, completely or not at all, and makes its folder.

  Raises:
    UserError: It cannot be written.
  """
  files.make_folder(path.parent)
  with files.replacing(path) as file:
    np.savez_compressed(file, **content)


@contextlib.contextmanager
def as_folder(photos: pathlib.Path, labels: pathlib.Path | None = None) -> Generator[pathlib.Path]:
  """Yields `photos`, or a temporary folder of its images, named by their rows, if it is an archive.

  Args:
    photos: A folder of pictures or an archive.
    labels: File of labels, which must be None for an archive.

  Raises:
    UserError: The file is not such an archive, `labels` is given for an archive, or the folder
      cannot be written.
  """
  if not is_archive(photos):
    yield photos
    return
  if labels:
    raise UserError(f"{photos} has labels: leave --labels out.")
  content = read(photos)
  paths = {
    images: [
      f"{part_of(images)}/{label}/{images}[{row}].png"
      for row, label in enumerate(content[classes].reshape(-1))
    ]
    for images, classes in pairs(content)
  }
  with tempfile.TemporaryDirectory(prefix="miue-jax-") as folder:
    unpack(content, paths, pathlib.Path(folder))
    yield pathlib.Path(folder)


def unpack(content: Arrays, paths: Mapping[str, list[str]], folder: pathlib.Path) -> None:
  """Makes a folder hold exactly the images of an archive; existing files are not written again."""
  wanted = {path: content[name][i] for name in paths for i, path in enumerate(paths[name])}
  for path in {path.rpartition("/")[0] for path in wanted}:
    files.make_folder(folder / path)
  there = set(publish.all_published(folder))
  for path in there - wanted.keys():
    files.remove(folder / path)

  def save(path: str) -> None:
    with files.replacing(folder / path) as file:
      file.write(encode.encode(decode.Picture(channels(wanted[path]))))

  for _ in progress.each_shown(save, sorted(wanted.keys() - there), "unpacking"):
    pass
