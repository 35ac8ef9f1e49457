"""Reads a tree of image files with one folder per class."""

import functools
import logging
import os
from collections.abc import Sequence

import numpy as np

from miue_jax.data import pixels
from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.images import LazyImages
from miue_jax.machine import files
from miue_jax.pictures import decode, listing, names, survey
from miue_jax.pictures.survey import Found
from miue_jax.settings import config
from miue_jax.settings.errors import UserError

logger = logging.getLogger(__name__)


def load(data: config.Data) -> Dataset:
  """Lists the images below `data.path`; they are read when they are indexed.

  The folder holds `train/<class>/...` and perhaps `test/<class>/...`, under these or similar names
  (`Training`, `val`; see `survey.survey`), or `<class>/...` directly. Images may be in sub-folders
  of their class. Classes are numbered in the sorted order of their folder names, images in the
  sorted order of their paths. Images have one channel if every file of the tree is gray; otherwise
  all become RGB. What is left out is logged by name.

  Raises:
    UserError: There is no such folder, no class folder or no image, a class is only in `test`, it
      is unclear which folders are splits, or a link is broken. Reading an image raises it if the
      image cannot be decoded, or if `data.size` is 0 and its size differs from that of the first.
  """
  if not data.path:
    raise UserError("data.source is folder but data.path is empty: set it to the folder of images.")
  root = data.path
  if not files.is_folder(root):
    raise UserError(f"{root} is not a folder: set data.path to the folder of images.")
  found = survey.survey(root, strict=True, follow=True, check=False)
  for item in found.left_out:
    path = os.path.join(root, item.path)
    if item.reason == listing.BROKEN_LINK:
      raise UserError(f"{path} is a broken link, not a file: repair or remove it.")
    if item.reason == listing.NO_PICTURES and survey.role(item.path):
      raise UserError(f"{path} has no images in class folders: add some or remove the folder.")
  for line in (*found.notes, *found.omissions()):
    logger.warning("%s: %s", root, line)
  groups = _by_role(root, found.pictures)
  class_names = sorted({picture.class_name for picture in groups["train"]})
  if unseen := sorted({picture.class_name for picture in groups.get("test", ())} - {*class_names}):
    raise UserError(
      f"Class {unseen[0]!r} is in the test but not in the training images of {root}: add training "
      "images or remove it from the test set."
    )
  paths = {
    role: [os.path.join(root, picture.path) for picture in group] for role, group in groups.items()
  }
  gray = all(decode.header(path).gray for role in groups for path in paths[role])
  name = data.name or os.path.basename(os.path.abspath(root))

  def split(role: str) -> Split:
    read = functools.partial(_read, paths[role], gray=gray, size=data.size)
    group = groups[role]
    return Split(
      LazyImages(read, len(group), name),
      np.array([class_names.index(picture.class_name) for picture in group]),
      tuple(_names_in_classes(group)),
    )

  test = split("test") if "test" in groups else None
  return Dataset(name, split("train"), test, tuple(class_names))


def _by_role(root: str, pictures: Sequence[Found]) -> dict[str, list[Found]]:
  """Returns the pictures of `train` and of `test`, or of `val` if there is no `test`."""
  groups: dict[str, list[Found]] = {}
  folders: dict[str, set[str]] = {}
  for picture in pictures:
    role = survey.role(picture.split) if picture.split else "train"
    groups.setdefault(role, []).append(picture)
    folders.setdefault(role, set()).add(picture.split or "")
  for role, same in folders.items():
    if len(same) > 1:
      raise UserError(f"{root} has the folders {' and '.join(sorted(same))}: merge them ({role}).")
  if "train" not in groups:
    other = next(iter(groups.values()))[0].split
    raise UserError(f"{root} has a folder {other} but no folder train: add the training images.")
  if "val" in groups and "test" not in groups:
    groups["test"] = groups.pop("val")
  elif unused := groups.pop("val", None):
    logger.warning("%s: %d images of %s are not used", root, len(unused), unused[0].split)
  return groups


def _names_in_classes(pictures: Sequence[Found]) -> list[str]:
  """Returns the path of each image below its class folder, without suffix."""
  result, by_class = [], {}
  for picture in pictures:
    depth = 2 if picture.split else 1
    by_class.setdefault(picture.class_name, []).append(picture.path.split("/", depth)[depth])
  for group in by_class.values():
    result += names.distinct_names(group)
  return result


def _read(paths: Sequence[str], chosen: np.ndarray, *, gray: bool, size: int) -> np.ndarray:
  wanted = [paths[index] for index in chosen]
  return pixels.decode_all(
    lambda part: [(path, path) for path in wanted[part]], len(wanted), gray=gray, size=size
  )
