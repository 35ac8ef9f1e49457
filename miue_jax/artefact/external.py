"""Reads external poisons: poisoned images that were made elsewhere, as methods of a comparison.

They are the uint8 training images in their order, in one of these forms: an `.npy` file; an `.npz`
file with the array `x_train` or `train_images`, or with only one array; a folder that
`--mode=export` wrote; a folder of PNGs with the names that an export would give them
(`CLASS/000123.png`); or a folder of PNGs that are ordered by the numbers in their names. Labels
and class folders that are present must be those of the dataset.
"""

import itertools
import logging
import math
import pathlib
import re
from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from miue_jax import budget
from miue_jax.artefact import release
from miue_jax.artefact.poison import Poison
from miue_jax.data import npz, pixels
from miue_jax.data.dataset import Dataset
from miue_jax.machine import archives, files, reading
from miue_jax.pictures import decode
from miue_jax.settings.config import FOLDER
from miue_jax.settings.errors import UserError

_PLAIN_ARRAY = "write it with numpy.save or numpy.savez from a plain array, without Python objects"

logger = logging.getLogger(__name__)


def parse(items: tuple[str, ...]) -> dict[str, pathlib.Path]:
  """Returns the paths of external poisons, strings `NAME=PATH`, by their names in the table.

  Raises:
    UserError: An item has another form, a name is used twice, or a path does not exist.
  """
  paths = {}
  for item in items:
    name, equals, path = item.partition("=")
    if not equals or not path or not FOLDER.fullmatch(name):
      raise UserError(
        f"compare.external holds {item!r}: write NAME=PATH, where NAME has letters, digits and _.+-"
      )
    if name in paths:
      raise UserError(f"compare.external names {name!r} twice: give each path a different name.")
    if files.kind(path) is None:
      raise UserError(f"compare.external says {item!r} but there is no {path}: correct the path.")
    paths[name] = pathlib.Path(path)
  return paths


def make(name: str, path: pathlib.Path, dataset: Dataset, epsilon: float, seed: int) -> Poison:
  """Makes a poison from external images.

  Args:
    name: Name in the table.
    path: File or folder of the poisoned images.
    dataset: Clean images that they replace.
    epsilon: Budget in [0, 1] pixel units. The manifest says if the images exceed it.
    seed: Seed in the manifest.

  Raises:
    UserError: `load` refuses the images.
  """
  delta = _difference(load(path, dataset), dataset)
  reached, allowed = int(np.abs(delta).max()), budget.budget(epsilon)
  extra = {"num_classes": dataset.num_classes, "external_path": str(path)}
  norm = "linf"
  if reached > allowed:
    epsilon, norm = 1.0, "none"
    extra["budget"] = f"not kept: {reached}/255, more than {allowed}/255"
  logger.info("%s: external images change a value by up to %d/255.", name, reached)
  return Poison.make(
    dataset,
    delta.astype(budget.stored_type(epsilon, norm)),
    method=name,
    epsilon=epsilon,
    norm=norm,
    config={},
    seed=seed,
    seconds=0.0,
    extra=extra,
  )


def load(path: pathlib.Path, dataset: Dataset) -> np.ndarray:
  """Reads poisoned images and checks that they can replace the training images of `dataset`.

  Returns:
    Images uint8 `[N, H, W, C]`.

  Raises:
    UserError: They cannot be read, are pickled, or have another type, shape or other labels.
  """
  shape = dataset.train.images.shape
  folder = files.is_folder(path)
  if folder and files.is_file(path / "index.csv"):
    split = release.read(path, shape)
    images, labels = np.asarray(split.images), split.labels
  elif folder and files.is_file(path / "poisoned.npz"):
    images, labels = _arrays(path / "poisoned.npz", dataset)
  elif folder:
    images, labels = _pngs(path, dataset)
  else:
    images, labels = _arrays(path, dataset)
  _require_shape(path, images.shape, images.dtype, dataset)
  images = images.reshape(shape)
  if labels is not None and not np.array_equal(labels.reshape(-1), dataset.train.labels):
    _refuse_labels(path, dataset)
  return images


def _refuse_labels(path: pathlib.Path, dataset: Dataset) -> NoReturn:
  raise UserError(
    f"Labels of {path} are not those of {dataset.name}: give the training images in their order."
  )


def _require_shape(
  path: pathlib.Path, shape: tuple[int, ...], dtype: np.dtype, dataset: Dataset
) -> None:
  """Raises a UserError if images of this shape and type cannot replace the training images."""
  if dtype != np.uint8:
    raise UserError(f"Images of {path} are {dtype}: convert them to uint8 in 0..255.")
  wanted = dataset.train.images.shape
  if shape != wanted and (wanted[-1] != 1 or shape != wanted[:-1]):
    raise UserError(
      f"Images of {path} have shape {list(shape)}, the training images of {dataset.name} "
      f"{list(wanted)}: give every training image, poisoned, in the same order and size."
    )


def _arrays(path: pathlib.Path, dataset: Dataset) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns the images of a file and its labels, or None if it has no labels.

  Shape and type are checked before anything is read: a small file can hold many zeros.
  """
  if not archives.is_archive(path):
    header = archives.npy_header(path, _PLAIN_ARRAY)
    _require_shape(path, header.shape, header.dtype, dataset)
    return archives.read_npy(path, _PLAIN_ARRAY), None
  archive = archives.Archive(path, _PLAIN_ARRAY)
  named = [layout[:2] for layout in npz.LAYOUTS if layout[0] in archive]
  if not named and len(archive) != 1:
    raise UserError(f"{path} holds {archive}: name the array of images x_train.")
  images, labels = named[0] if named else (*archive, "")
  header = archive.header(images)
  _require_shape(path, header.shape, header.dtype, dataset)
  if labels not in archive:
    return archive[images], None
  header = archive.header(labels)
  if header.dtype.kind not in "biuf" or math.prod(header.shape) != len(dataset.train):
    _refuse_labels(path, dataset)
  return archive[images], archive[labels]


def _pngs(folder: pathlib.Path, dataset: Dataset) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns the images of a folder without an index, and the labels of its class folders."""
  names = release.paths(dataset)
  for prefix in ("", "train/"):
    paths = [folder / name.removeprefix(prefix) for name in names]
    if all(map(files.is_file, paths)):
      return _decoded(paths, dataset), None
  paths = sorted(reading.files_below(folder, ".png"), key=lambda path: _natural(path.stem))
  if not paths:
    raise UserError(
      f"{folder} holds no PNG, index.csv or poisoned.npz: give a folder of PNGs or one that "
      "--mode=export wrote, or an .npz or .npy file."
    )
  for one, other in itertools.pairwise(paths):
    if _natural(one.stem) == _natural(other.stem):
      raise UserError(
        f"{one} and {other} have the same place in the order: number the images of {folder} as the "
        "training images are."
      )
  classes = {name: label for label, name in enumerate(dataset.class_names)}
  labels = [classes.get(path.parent.name) for path in paths]
  return _decoded(paths, dataset), None if None in labels else np.array(labels)


def _natural(name: str) -> list[tuple[bool, int, str]]:
  """Returns a sort key that orders names by the numbers in them: "9" comes before "10"."""
  parts = re.split("([0-9]+)", name)
  return [(True, int(part), "") if part.isdecimal() else (False, 0, part) for part in parts]


def _decoded(paths: Sequence[pathlib.Path], dataset: Dataset) -> np.ndarray:
  """Decodes images, after a look at their headers: a small file can hold many equal pixels."""
  wanted = dataset.train.images.shape[1:3]
  for path in paths:
    found = decode.header(path)
    if (found.height, found.width) != wanted:
      raise UserError(
        f"{path} has {found.height} x {found.width} pixels, but the training images of "
        f"{dataset.name} {wanted[0]} x {wanted[1]}: give every training image, poisoned, in the "
        "same size."
      )
  return pixels.decode_all(
    lambda part: [(str(path), str(path)) for path in paths[part]],
    len(paths),
    gray=dataset.train.images.shape[-1] == 1,
    size=0,
  )


def _difference(images: np.ndarray, dataset: Dataset) -> np.ndarray:
  """Returns poisoned minus clean images, int16 `[N, H, W, C]`."""
  delta = np.empty(images.shape, np.int16)
  for ids, clean in dataset.train.images.blocks():
    delta[ids] = images[ids].astype(np.int16) - clean
  return delta
