"""Reads a tree of image files with one folder per class."""

import collections
import functools
import logging
import os
from collections.abc import Sequence

import numpy as np

from miue_jax.data import pixels
from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.images import LazyImages
from miue_jax.machine import files, reading
from miue_jax.settings import config
from miue_jax.settings.errors import UserError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

logger = logging.getLogger(__name__)


def load(data: config.Data) -> Dataset:
  """Lists the images below `data.path`; they are read when they are indexed.

  The folder holds `train/<class>/...` and perhaps `test/<class>/...`, or `<class>/...` directly.
  Images may be in sub-folders of their class. PNG, JPEG, WebP and BMP files are read. Classes are
  numbered in the sorted order of their folder names, images in the sorted order of their paths.
  Images have one channel if every file of the tree is gray; otherwise all become RGB.

  Raises:
    UserError: There is no such folder, no class folder or no image, a class is only in `test`, or a
      link is broken. Reading an image raises it if the image does not decode, or if `data.size` is
      0 and its size differs from that of the first image.
  """
  if not data.path:
    raise UserError("data.source is folder but data.path is empty: set it to the folder of images.")
  root = data.path
  if not files.is_folder(root):
    raise UserError(f"{root} is not a folder: set data.path to the folder of images.")
  train_root, test_root = os.path.join(root, "train"), os.path.join(root, "test")
  if not files.is_folder(train_root):
    if files.is_folder(test_root):
      raise UserError(f"{root} has a folder test but no folder train: add the training images.")
    train_root = root
  class_names = _subfolders(train_root)
  if not class_names:
    raise UserError(f"{train_root} has no class folders: put the images of each class in one.")
  images = {train_root: _images_of(train_root, class_names)}
  if not any(images[train_root]):
    raise UserError(f"{train_root} has no PNG, JPEG, WebP or BMP files in its class folders.")
  if files.is_folder(test_root):
    if unseen := sorted(set(_subfolders(test_root)) - set(class_names)):
      raise UserError(
        f"Class {unseen[0]!r} is in {test_root} but not in {train_root}: add training images or "
        "remove it from the test set."
      )
    images[test_root] = _images_of(test_root, class_names)
  paths = {tree: _paths(tree, class_names, images[tree]) for tree in images}
  gray = all(pixels.is_gray(path, path) for tree in images for path in paths[tree])
  name = data.name or os.path.basename(os.path.abspath(root))

  def split(tree: str) -> Split:
    read = functools.partial(_read, paths[tree], gray=gray, size=data.size)
    return Split(
      LazyImages(read, len(paths[tree]), name),
      np.repeat(np.arange(len(class_names)), [len(group) for group in images[tree]]),
      tuple(name for group in images[tree] for name in distinct_names(group)),
    )

  test = split(test_root) if test_root in images else None
  return Dataset(name, split(train_root), test, tuple(class_names))


def distinct_names(files: Sequence[str]) -> list[str]:
  """Removes the suffixes of relative paths, unless two files would then share a name.

  `a.png` becomes `"a"`, but `"a_png"` if there is also `a.jpg`.
  """
  parts = [file.rpartition(".") for file in files]
  count = collections.Counter(stem for stem, _, _ in parts)
  taken = {stem for stem in count if count[stem] == 1}
  names = []
  for stem, _, suffix in parts:
    name = stem
    if count[stem] > 1:
      name = f"{stem}_{suffix}"
      while name in taken:
        name += "_"
      taken.add(name)
    names.append(name)
  return names


def _read(paths: Sequence[str], chosen: np.ndarray, *, gray: bool, size: int) -> np.ndarray:
  wanted = [paths[index] for index in chosen]
  return pixels.decode_all(
    lambda part: [(path, path) for path in wanted[part]], len(wanted), gray=gray, size=size
  )


def _images_of(tree: str, class_names: Sequence[str]) -> list[list[str]]:
  """Returns the image files of each class; an empty list for a class without a folder."""
  present = _subfolders(tree)
  return [
    _images_below(os.path.join(tree, name)) if name in present else [] for name in class_names
  ]


def _paths(tree: str, class_names: Sequence[str], files: Sequence[Sequence[str]]) -> list[str]:
  return [
    os.path.join(tree, class_name, file)
    for class_name, group in zip(class_names, files, strict=True)
    for file in group
  ]


def _subfolders(folder: str) -> list[str]:
  return [entry.name for entry in _visible(folder) if entry.kind == "folder"]


def _visible(folder: str) -> list[reading.Entry]:
  """Returns the entries of a folder that are not hidden, sorted by name."""
  return [entry for entry in reading.entries(folder) if not entry.name.startswith(".")]


def _images_below(class_folder: str) -> list[str]:
  """Returns the sorted paths of image files, relative to a class folder and with "/"."""
  images, ignored = [], 0
  seen = set()  # real folders: a link may lead outside the tree, but must not make a circle
  pending = [""]
  while pending:
    prefix = pending.pop()
    folder = os.path.join(class_folder, prefix)
    real = os.path.realpath(folder)
    if real in seen:
      continue
    seen.add(real)
    for entry in _visible(folder):
      if entry.kind == "folder":
        pending.append(f"{prefix}{entry.name}/")
      elif not entry.name.lower().endswith(_SUFFIXES):
        ignored += 1
      elif entry.kind == "file":
        images.append(prefix + entry.name)
      else:
        raise UserError(f"{entry.path} is a {entry.kind}, not a file: repair or remove it.")
  if ignored:
    logger.info("%s: ignored %d files that are not images", class_folder, ignored)
  return sorted(images)
