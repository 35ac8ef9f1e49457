"""Reads arrays of images and labels from one `.npz` file, in Keras's or MedMNIST's layout."""

import os
import pathlib

import numpy as np

from miue_jax.data import arrays, pixels
from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.images import LazyImages
from miue_jax.machine import archives, files, room
from miue_jax.settings import config
from miue_jax.settings.errors import UserError

# Names of training images and labels, and of test images and labels. MedMNIST's val_* is not read:
# the source model and the victims train for a fixed number of epochs, without model selection.
LAYOUTS = (
  ("x_train", "y_train", "x_test", "y_test"),
  ("train_images", "train_labels", "test_images", "test_labels"),
)

_COPIES = 2  # of the images in memory: as they are stored, and as they are used


def load(data: config.Data) -> Dataset:
  """Reads the file `data.path`; see `read`.

  Raises:
    UserError: The path is empty or not a file, or `read` refuses the file.
  """
  if not data.path:
    raise UserError("data.source is npz but data.path is empty: set it to the .npz file.")
  if not files.is_file(data.path):
    raise UserError(f"{data.path} is not a file: set data.path to an .npz file.")
  return read(data.path, data.name, data.size)


def read(path: str | os.PathLike, name: str = "", size: int = 0) -> Dataset:
  """Reads a dataset from a file; images are resized when they are indexed.

  The file holds `x_train`, `y_train` and perhaps `x_test`, `y_test`, or MedMNIST's `train_images`,
  `train_labels` and perhaps `test_images`, `test_labels` (`val_*` is ignored). Images are uint8
  `[N, H, W]`, `[N, H, W, 1]` or `[N, H, W, 3]`; labels are integers `[N]` or `[N, 1]`. Classes are
  called "0", "1", ... unless a unicode array `class_names` `[K]` names them.

  Args:
    path: The file.
    name: Name of the dataset; empty takes that of the file.
    size: New height and width in pixels; 0 keeps the size.

  Raises:
    UserError: The file is not an npz file, has pickled objects, missing keys, wrong shapes or
      types, or has labels that are out of range or only in the test set.
  """
  archive = archives.Archive(path)
  name = name or pathlib.Path(path).stem
  layout = next((keys for keys in LAYOUTS if {*keys[:2]} <= archive.keys()), None)
  if layout is None:
    raise UserError(
      f"{path} holds {archive}; it needs x_train and y_train, or train_images and train_labels."
    )
  x_train, y_train, x_test, y_test = layout
  if (x_test in archive) != (y_test in archive):
    raise UserError(f"{path} holds {archive}; it needs both {x_test} and {y_test}, or neither.")
  train = _split(path, archive, x_train, y_train, name, size)
  test = _split(path, archive, x_test, y_test, name, size) if x_test in archive else None
  class_names = _class_names(path, archive, train.labels)
  for key, split in ((y_train, train), (y_test, test)):
    if split is not None and split.labels.max() >= len(class_names):
      raise UserError(
        f"{key} of {path} has label {split.labels.max()} but there are {len(class_names)} classes: "
        "remove those examples or correct the labels."
      )
  if test is not None and (unseen := np.setdiff1d(test.labels, train.labels)).size:
    raise UserError(
      f"Label {unseen[0]} of {path} is in {y_test} but not in {y_train}: add training images or "
      "remove it from the test set."
    )
  return Dataset(name, train, test, class_names)


def _split(
  path: str | os.PathLike, archive: archives.Archive, x: str, y: str, name: str, size: int
) -> Split:
  size_of, free = archive.header(x).bytes, room.limit()
  if _COPIES * size_of > free:
    raise UserError(
      f"{x} of {path} takes {size_of:,} bytes in memory, of which {free:,} are left for "
      f"{_COPIES} copies: take fewer or smaller images, or a folder of image files."
    )
  images = arrays.images(archive[x], f"{x} of {path}")
  labels = arrays.labels(archive[y], len(images), f"{y} of {path}")
  resized = LazyImages(lambda chosen: pixels.resize(images[chosen], size), len(images), name)
  return Split(resized, labels.astype(np.int64))


def _class_names(
  path: str | os.PathLike, archive: archives.Archive, labels: np.ndarray
) -> tuple[str, ...]:
  if "class_names" not in archive:
    return arrays.class_names(labels, str(path))
  names = archive["class_names"]
  if names.ndim != 1 or names.dtype.kind != "U" or len(np.unique(names)) != len(names):
    raise UserError(f"class_names of {path} must be a one-dimensional array of distinct strings.")
  return tuple(names.tolist())
