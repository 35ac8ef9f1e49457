"""A tree of image files with one folder for each class."""

import collections
import os
from collections.abc import Sequence

import numpy as np
from absl import logging

from miue_jax.data import pixels
from miue_jax.data.pool import Pool, Pools
from miue_jax.settings import config
from miue_jax.settings.errors import UserError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def load(data: config.Data) -> Pools:
  """Lists the images below `data.path`; their pixels are read later.

  The folder holds `train/<class>/...` and perhaps `test/<class>/...`, or `<class>/...` directly;
  images may lie in sub-folders of their class. PNG, JPEG, WebP and BMP files are read. Classes are
  numbered in the sorted order of their folder names, images in the sorted order of their paths.
  Images have one channel if every file of the tree is gray; otherwise all become RGB.

  Raises:
    UserError: no such folder, no class folders, no images, a class only in `test`, a broken link;
      on reading also an image that does not decode or, where `data.size` is 0, has another size
      than the first.
  """
  if not data.path:
    raise UserError("data.source is folder but data.path is empty: set it to the folder of images.")
  root = data.path
  if not os.path.isdir(root):
    raise UserError(f"{root} is not a folder: set data.path to the folder of images.")
  train_root, test_root = os.path.join(root, "train"), os.path.join(root, "test")
  if not os.path.isdir(train_root):
    if os.path.isdir(test_root):
      raise UserError(f"{root} has a folder test but no folder train: add the training images.")
    train_root = root
  class_names = _subfolders(train_root)
  if not class_names:
    raise UserError(f"{train_root} has no class folders: put the images of each class in one.")
  files = {train_root: _images_of(train_root, class_names)}
  if not any(files[train_root]):
    raise UserError(f"{train_root} has no PNG, JPEG, WebP or BMP files in its class folders.")
  if os.path.isdir(test_root):
    if unseen := sorted(set(_subfolders(test_root)) - set(class_names)):
      raise UserError(
        f"Class {unseen[0]!r} is in {test_root} but not in {train_root}: add training images or "
        "remove it from the test set."
      )
    files[test_root] = _images_of(test_root, class_names)
  paths = {tree: _paths(tree, class_names, files[tree]) for tree in files}
  gray = all(pixels.is_gray(path, path) for tree in files for path in paths[tree])

  def pool(tree: str) -> Pool:
    def read(chosen: np.ndarray) -> np.ndarray:
      wanted = [paths[tree][index] for index in chosen]
      return pixels.decode_all(
        lambda part: [(path, path) for path in wanted[part]],
        len(wanted),
        gray=gray,
        size=data.size,
      )

    return Pool(
      labels=np.repeat(np.arange(len(class_names)), [len(group) for group in files[tree]]),
      read=read,
      files=tuple(name for group in files[tree] for name in distinct_names(group)),
    )

  return Pools(
    name=data.name or os.path.basename(os.path.abspath(root)),
    train=pool(train_root),
    test=pool(test_root) if test_root in files else None,
    class_names=tuple(class_names),
  )


def distinct_names(files: Sequence[str]) -> list[str]:
  """Drops the suffixes of relative paths, except where two files would share a name.

  `a.png` alone becomes `"a"`; beside `a.jpg` it becomes `"a_png"`.
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


def _images_of(tree: str, class_names: Sequence[str]) -> list[list[str]]:
  """The image files of each class; none where a tree lacks the folder of a class."""
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
  return [entry.name for entry in _visible(folder) if entry.is_dir()]


def _visible(folder: str) -> list[os.DirEntry]:
  """What a folder holds, sorted by name, without hidden files."""
  try:
    with os.scandir(folder) as entries:
      return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
  except OSError as error:
    raise UserError(f"{folder} cannot be listed ({error.strerror}): make it readable.") from error


def _images_below(class_folder: str) -> list[str]:
  """Sorted paths, relative to a class folder and with "/", of the image files below it."""
  images, ignored = [], 0
  seen = set()  # of real folders: links may lead outside the tree, but not round in circles
  pending = [""]
  while pending:
    prefix = pending.pop()
    folder = os.path.join(class_folder, prefix)
    real = os.path.realpath(folder)
    if real in seen:
      continue
    seen.add(real)
    for entry in _visible(folder):
      if entry.is_dir():
        pending.append(f"{prefix}{entry.name}/")
      elif not entry.name.lower().endswith(_SUFFIXES):
        ignored += 1
      elif entry.is_file():
        images.append(prefix + entry.name)
      else:
        raise UserError(f"{entry.path} is not a readable file: repair the link or remove it.")
  if ignored:
    logging.info("%s: ignored %d files that are not images", class_folder, ignored)
  return sorted(images)
