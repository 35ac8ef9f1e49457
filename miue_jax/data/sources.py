"""Loads datasets: turns the section `data` of a config into a `Dataset`.

Sources return images that are not read yet. Classes, subsets and the held-out split are chosen from
labels alone, so that unwanted images are never decoded.
"""

import dataclasses
import logging
from typing import Any

import numpy as np
from sklearn import datasets

from miue_jax.data import folder, npz, pixels, tfds
from miue_jax.data.dataset import Dataset, Split, checked
from miue_jax.data.images import LazyImages
from miue_jax.data.sampling import Draw, stratified
from miue_jax.settings import config
from miue_jax.settings.errors import UserError

logger = logging.getLogger(__name__)


def digits(data: config.Data) -> Dataset:
  """Returns scikit-learn's 1,797 gray handwritten digits, resized from 8 x 8 pixels to 32 x 32."""
  if data.path:
    raise UserError(
      f"data.path is {data.path!r}, but the digits are read from no path: name the recipe of your "
      "data, --config=configs/folder.py or --config=configs/npz.py."
    )
  bunch: Any = datasets.load_digits()
  images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
  name, size = data.name or "digits", data.size or 32
  resized = LazyImages(lambda chosen: pixels.resize(images[chosen], size), len(images), name)
  train = Split(resized, bunch.target.astype(np.int64))
  return Dataset(name, train, None, tuple(str(name) for name in bunch.target_names))


SOURCES = {"digits": digits, "folder": folder.load, "npz": npz.load, "tfds": tfds.load}


def load(data: config.Data, *, need_test: bool = True) -> Dataset:
  """Reads the images that a config asks for.

  The classes are selected first. Then a test set is held out if the source has none, and both
  splits are reduced to `max_train` and `max_test`. Only the remaining images are decoded and
  resized. If they would take more than `data.memory`, they are checked now and read again whenever
  they are indexed.

  Args:
    data: Section `data` of a config.
    need_test: Whether a missing test set is an error. It does not change the training set: a test
      set is read or held out in both cases.

  Returns:
    A dataset that has passed `dataset.checked`.

  Raises:
    UserError: The source, a class or the test set is missing, or the images cannot be used.
  """
  if data.source not in SOURCES:
    raise UserError(f"data.source is {data.source!r}: set it to one of {', '.join(SOURCES)}.")
  source = SOURCES[data.source](data)
  rows = np.arange(len(source.train))
  source = dataclasses.replace(source, train=dataclasses.replace(source.train, rows=rows))
  if data.classes:
    source = _select_classes(source, data.classes)
  train, test = source.train, source.test
  if test is None and data.test_fraction > 0:
    train, test = _hold_out(train, data.test_fraction, data.seed)
    logger.info("%s: held out %d of %d images", source.name, len(test), len(source.train))
  if test is None and need_test:
    raise UserError(
      f"{source.name} has no test set: set data.test_fraction above 0 to hold one out, or add test "
      "images."
    )
  train = _at_most(train, data.max_train, data.seed, Draw.TRAIN)
  if test is not None:
    test = _at_most(test, data.max_test, data.seed, Draw.TEST)
  # All images are assumed to have the size of the first ones.
  sizes = [np.prod(split.images.shape, dtype=float) for split in (train, test) if split]
  gigabytes = sum(sizes) / 1e9
  lazy = gigabytes > data.memory
  if lazy:
    logger.info(
      "%s: %.3g GB of images exceed data.memory (%g): they are read whenever they are needed",
      source.name,
      gigabytes,
      data.memory,
    )
  train, test = _read(train, lazy), None if test is None else _read(test, lazy)
  if test is not None and not data.size:
    _check_one_size(source.name, train.images.shape[1:3], test.images.shape[1:3])
  return checked(Dataset(source.name, train, test, source.class_names))


def _select_classes(source: Dataset, classes: tuple[str, ...]) -> Dataset:
  """Selects `classes` and numbers them in the given order."""
  unknown = sorted(set(classes) - set(source.class_names))
  if unknown:
    raise UserError(
      f"data.classes names {unknown[0]!r}, which {source.name} does not have: choose from "
      f"{_listed(source.class_names)}."
    )
  if len(set(classes)) != len(classes):
    raise UserError("data.classes names a class twice: name every class once.")
  new_label = np.full(len(source.class_names), -1)
  new_label[[source.class_names.index(name) for name in classes]] = np.arange(len(classes))

  def select(split: Split) -> Split:
    labels = new_label[split.labels]
    return dataclasses.replace(split, labels=labels).take(np.flatnonzero(labels >= 0))

  test = None if source.test is None else select(source.test)
  return Dataset(source.name, select(source.train), test, classes)


def _listed(names: tuple[str, ...], limit: int = 20) -> str:
  return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
  """Returns training and test examples; every class keeps its share in both."""
  chosen = stratified(split.labels, round(fraction * len(split)), seed, Draw.HELD_OUT)
  return split.take(np.setdiff1d(np.arange(len(split)), chosen)), split.take(chosen)


def _at_most(split: Split, limit: int, seed: int, draw: Draw) -> Split:
  if not 0 < limit < len(split):
    return split
  return split.take(stratified(split.labels, limit, seed, draw))


def _read(split: Split, lazy: bool) -> Split:
  images = split.images.scanned() if lazy else split.images.loaded()
  return Split(images, split.labels.astype(np.int32), split.files, split.rows)


def _check_one_size(name: str, train: tuple[int, ...], test: tuple[int, ...]) -> None:
  if train != test and 0 not in train + test:  # `checked` reports an empty split.
    raise UserError(
      f"Training images of {name} are {train[1]} x {train[0]} pixels and test images "
      f"{test[1]} x {test[0]}: set data.size to resize them to one size."
    )
