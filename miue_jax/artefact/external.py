"""Poisoned images that were made elsewhere, as one more method of the comparison.

They are the training images in their order, uint8: an `.npy` file; an `.npz` file with the array
`x_train`, `train_images` or only one; or a folder: one that `--mode=export` wrote, PNGs by the
names that it would give them (`CLASS/000123.png`), or PNGs that the numbers in their names put in
order. Labels and class folders that come with them must be those of the dataset.
"""

import itertools
import os
import pathlib
import re
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np
from absl import logging

from miue_jax import budget
from miue_jax.artefact import poison as artefact
from miue_jax.artefact import release
from miue_jax.artefact.poison import Poison
from miue_jax.data import pixels
from miue_jax.data.dataset import Dataset
from miue_jax.machine import files
from miue_jax.settings.config import FOLDER, Method
from miue_jax.settings.errors import UserError

_LAYOUTS = (("x_train", "y_train"), ("train_images", "train_labels"))
_BLOCK = 1024  # images widened to int16 at a time


def parse(items: tuple[str, ...]) -> dict[str, pathlib.Path]:
  """Paths by the names that their images have in the table, from `NAME=PATH`.

  Raises:
    UserError: an item of another form, a name given twice, or a path that does not exist.
  """
  paths = {}
  for item in items:
    name, equals, path = item.partition("=")
    if not equals or not path or not FOLDER.fullmatch(name):
      raise UserError(
        f"compare.bring holds {item!r}: write NAME=PATH, where NAME has letters, digits and _.+-"
      )
    if name in paths:
      raise UserError(f"compare.bring names {name!r} twice: give every path a name of its own.")
    if not os.path.exists(path):
      raise UserError(f"compare.bring says {item!r} but there is no {path}: correct the path.")
    paths[name] = pathlib.Path(path)
  return paths


def make(name: str, path: pathlib.Path, dataset: Dataset, method: Method, seed: int) -> Poison:
  """The artefact of brought images.

  Args:
    name: what the table calls them.
    path: where they are.
    dataset: the clean images they replace.
    method: its epsilon is the budget that they are held against; exceeding it is stated in the
      manifest, not refused.
    seed: recorded in the manifest.

  Raises:
    UserError: as `load`.
  """
  delta = _difference(load(path, dataset), dataset)
  reached, allowed = int(np.abs(delta).max()), budget.budget(method.epsilon)
  bound = {"epsilon": method.epsilon} if reached <= allowed else {"epsilon": 1.0, "norm": "none"}
  extra = {"num_classes": dataset.num_classes, "brought_from": str(path)}
  if reached > allowed:
    extra["budget"] = f"not kept: {reached}/255, more than {allowed}/255"
  logging.info("%s: brought images change a value by up to %d/255.", name, reached)
  return artefact.make(
    dataset,
    delta.astype(budget.stored_type(bound["epsilon"], bound.get("norm", "linf"))),
    method=name,
    config={},
    seed=seed,
    seconds=0.0,
    extra=extra,
    **bound,
  )


def load(path: pathlib.Path, dataset: Dataset) -> np.ndarray:
  """Reads poisoned images of `dataset` and checks that they could be that.

  Returns:
    uint8 `[N, H, W, C]`.

  Raises:
    UserError: they cannot be read, are pickled, or have another type, count, shape or other labels.
  """
  shape = dataset.train.images.shape
  if (path / "index.csv").is_file():
    split = release.read(path, shape)
    images, labels = split.images, split.labels
  elif (path / "poisoned.npz").exists():
    images, labels = _arrays(path / "poisoned.npz")
  elif path.is_dir():
    images, labels = _pngs(path, dataset)
  else:
    images, labels = _arrays(path)
  if images.dtype != np.uint8:
    raise UserError(f"Images of {path} are {images.dtype}: convert them to uint8 in 0..255.")
  if images.ndim == 3 and shape[-1] == 1:
    images = images[..., None]
  if images.shape != shape:
    raise UserError(
      f"Images of {path} have shape {list(images.shape)}, the training images of {dataset.name} "
      f"{list(shape)}: bring every training image, poisoned, in the same order and size."
    )
  if labels is not None and not np.array_equal(labels.reshape(-1), dataset.train.labels):
    raise UserError(
      f"Labels of {path} are not those of {dataset.name}: bring the training images in their order."
    )
  return images


def _arrays(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray | None]:
  """Images and, where the file has them, labels."""
  try:
    with files.reported("read", path):
      loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
      return loaded, None
    with loaded as archive:
      for images, labels in _LAYOUTS:
        if images in archive.files:
          return archive[images], archive[labels] if labels in archive.files else None
      if len(archive.files) == 1:
        return archive[archive.files[0]], None
      held = ", ".join(sorted(archive.files)) or "nothing"
  except (EOFError, ValueError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
    raise UserError(
      f"{path} cannot be read ({error}): write it with numpy.save or numpy.savez from a plain "
      "array, without Python objects."
    ) from error
  raise UserError(f"{path} holds {held}: name the array of images x_train.")


def _pngs(folder: pathlib.Path, dataset: Dataset) -> tuple[np.ndarray, np.ndarray | None]:
  """Images of a folder without an index, and the labels that its class folders say, if they do."""
  names = release.paths(dataset)
  for prefix in ("", "train/"):
    paths = [folder / name.removeprefix(prefix) for name in names]
    if all(map(os.path.isfile, paths)):
      return _decoded(paths, dataset), None
  paths = sorted(folder.rglob("*.png"), key=lambda path: _natural(path.stem))
  if not paths:
    raise UserError(
      f"{folder} holds no PNG, index.csv or poisoned.npz: bring a folder of PNGs or one that "
      "--mode=export wrote, or an .npz or .npy file."
    )
  for one, other in itertools.pairwise(paths):
    if _natural(one.stem) == _natural(other.stem):
      raise UserError(
        f"{one} and {other} have one place in the order: number the images of {folder} as the "
        "training images are."
      )
  classes = {name: label for label, name in enumerate(dataset.class_names)}
  labels = [classes.get(path.parent.name) for path in paths]
  return _decoded(paths, dataset), None if None in labels else np.array(labels)


def _natural(name: str) -> list[tuple[bool, int, str]]:
  """Orders names by the numbers in them: "9" comes before "10"."""
  parts = re.split("([0-9]+)", name)
  return [(True, int(part), "") if part.isdecimal() else (False, 0, part) for part in parts]


def _decoded(paths: Sequence[pathlib.Path], dataset: Dataset) -> np.ndarray:
  return pixels.decode_all(
    lambda part: [(str(path), str(path)) for path in paths[part]],
    len(paths),
    gray=dataset.train.images.shape[-1] == 1,
    size=0,
  )


def _difference(images: np.ndarray, dataset: Dataset) -> np.ndarray:
  """Poisoned minus clean images, int16 `[N, H, W, C]`."""
  delta = np.empty(images.shape, np.int16)
  for start in range(0, len(images), _BLOCK):
    part = slice(start, start + _BLOCK)
    delta[part] = images[part].astype(np.int16) - dataset.train.images[part]
  return delta
