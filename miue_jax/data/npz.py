"""Arrays in one `.npz` file, in Keras's or MedMNIST's layout."""

import pathlib
import zipfile
import zlib

import numpy as np

from miue_jax.data import pixels
from miue_jax.data.pool import Pool, Pools
from miue_jax.settings import config
from miue_jax.settings.errors import UserError

# Train images, train labels, test images, test labels. MedMNIST's val_* is not read: the source
# model and the victims train for a fixed number of epochs, so nothing is selected on it.
_LAYOUTS = (
  ("x_train", "y_train", "x_test", "y_test"),
  ("train_images", "train_labels", "test_images", "test_labels"),
)


def load(data: config.Data) -> Pools:
  """Reads `data.path`.

  The file holds `x_train`, `y_train` and perhaps `x_test`, `y_test`, or MedMNIST's `train_images`,
  `train_labels` and perhaps `test_images`, `test_labels` (`val_*` is ignored). Images are uint8
  `[N, H, W]`, `[N, H, W, 1]` or `[N, H, W, 3]`; labels are integers `[N]` or `[N, 1]`. Classes are
  called "0", "1", ... unless a unicode array `class_names` `[K]` names them.

  Raises:
    UserError: no such file, not an npz file, pickled objects, missing keys, wrong shapes or types,
      labels out of range or only in the test set.
  """
  if not data.path:
    raise UserError("data.source is npz but data.path is empty: set it to the .npz file.")
  arrays = _read(data.path)
  layout = next((keys for keys in _LAYOUTS if {*keys[:2]} <= arrays.keys()), None)
  if layout is None:
    raise UserError(
      f"{data.path} holds {_listed(arrays)}; it needs x_train and y_train, or train_images and "
      "train_labels."
    )
  x_train, y_train, x_test, y_test = layout
  if (x_test in arrays) != (y_test in arrays):
    raise UserError(
      f"{data.path} holds {_listed(arrays)}; it needs both {x_test} and {y_test}, or neither."
    )
  train = _pool(data, arrays, x_train, y_train)
  test = _pool(data, arrays, x_test, y_test) if x_test in arrays else None
  class_names = _class_names(data.path, arrays, train.labels)
  for key, pool in ((y_train, train), (y_test, test)):
    if pool is not None and pool.labels.max() >= len(class_names):
      raise UserError(
        f"{key} of {data.path} has label {pool.labels.max()} but there are {len(class_names)} "
        "classes: remove those examples or correct the labels."
      )
  if test is not None and (unseen := np.setdiff1d(test.labels, train.labels)).size:
    raise UserError(
      f"Label {unseen[0]} of {data.path} is in {y_test} but not in {y_train}: add training images "
      "or remove it from the test set."
    )
  return Pools(data.name or pathlib.Path(data.path).stem, train, test, class_names)


def _read(path: str) -> dict[str, np.ndarray]:
  if not pathlib.Path(path).is_file():
    raise UserError(f"{path} is not a file: set data.path to an .npz file.")
  if not zipfile.is_zipfile(path):
    raise UserError(f"{path} is not an .npz file: write it with numpy.savez.")
  wanted = {key for layout in _LAYOUTS for key in layout} | {"class_names"}
  arrays = {}
  try:
    with np.load(path, allow_pickle=False) as archive:
      for key in archive.files:
        # Arrays that are not used are listed in errors, never read.
        arrays[key] = archive[key] if key in wanted else np.empty(0)
        if not isinstance(arrays[key], np.ndarray):  # NumPy hands over what it cannot parse
          raise ValueError(f"{key} is not an array")
  except (OSError, EOFError, ValueError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
    raise UserError(
      f"{path} cannot be read ({error}): write it with numpy.savez from plain arrays, without "
      "Python objects."
    ) from error
  return arrays


def _listed(arrays: dict[str, np.ndarray]) -> str:
  return ", ".join(sorted(arrays)) or "nothing"


def _pool(data: config.Data, arrays: dict[str, np.ndarray], x: str, y: str) -> Pool:
  images, labels = arrays[x], arrays[y]
  if images.dtype != np.uint8:
    raise UserError(f"{x} of {data.path} is {images.dtype}: convert it to uint8 in 0..255.")
  if images.ndim == 3:
    images = images[..., None]
  if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
    raise UserError(
      f"{x} of {data.path} has shape {list(arrays[x].shape)}: make it [N, H, W], [N, H, W, 1] or "
      "[N, H, W, 3], without an empty dimension."
    )
  if labels.ndim == 2 and labels.shape[1] == 1:
    labels = labels[:, 0]
  if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
    raise UserError(
      f"{y} of {data.path} is {labels.dtype} of shape {list(arrays[y].shape)}: give one integer "
      "for each image, [N] or [N, 1]."
    )
  if len(labels) != len(images):
    raise UserError(
      f"{data.path} has {len(images)} images in {x} but {len(labels)} labels in {y}: give one "
      "label for each image."
    )
  # Before the cast, which would wrap uint64, and before a stray label makes a list of its length.
  if labels.min() < 0 or labels.max() >= 2**31:
    raise UserError(
      f"{y} of {data.path} has labels from {labels.min()} to {labels.max()}: number the classes "
      "0, 1, 2, ..."
    )
  return Pool(labels.astype(np.int64), lambda chosen: pixels.resize(images[chosen], data.size))


def _class_names(path: str, arrays: dict[str, np.ndarray], labels: np.ndarray) -> tuple[str, ...]:
  if "class_names" not in arrays:
    if (gaps := np.setdiff1d(np.arange(len(labels)), labels)).size and gaps[0] < labels.max():
      raise UserError(
        f"{path} has no training image of class {gaps[0]} but has label {labels.max()}: number the "
        "classes 0, 1, 2, ... without gaps, or add class_names."
      )
    return tuple(str(label) for label in range(labels.max() + 1))
  names = arrays["class_names"]
  if names.ndim != 1 or names.dtype.kind != "U" or len(np.unique(names)) != len(names):
    raise UserError(f"class_names of {path} must be a one-dimensional array of distinct strings.")
  return tuple(names.tolist())
