"""Where datasets come from: `load` turns the `data` section of a config into a `Dataset`."""

import numpy as np
from absl import logging
from sklearn import datasets

from miue_jax.data import dataset, folder, npz, pixels, reader, tfds
from miue_jax.data.pool import Draw, Pool, Pools, stratified
from miue_jax.settings import config
from miue_jax.settings.errors import UserError


def digits(data: config.Data) -> Pools:
  """scikit-learn's 1,797 handwritten digits, gray, enlarged from 8 x 8 pixels to 32 x 32."""
  bunch = datasets.load_digits()
  images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
  size = data.size or 32
  train = Pool(
    labels=bunch.target.astype(np.int64),
    read=lambda chosen: pixels.resize(images[chosen], size),
  )
  return Pools(data.name or "digits", train, None, tuple(str(name) for name in bunch.target_names))


SOURCES = {"digits": digits, "folder": folder.load, "npz": npz.load, "tfds": tfds.load}


def load(data: config.Data, *, need_test: bool = True) -> dataset.Dataset:
  """Reads the images a config asks for.

  Classes are selected first, then a test set is held out where the source has none, then both
  sides are reduced to `max_train` and `max_test`; only what remains is decoded and resized. Where
  that would take more than `data.memory`, it is checked now and read again whenever it is indexed.

  Args:
    data: the section `data` of a config.
    need_test: whether a missing test set is an error. A test set that exists is read either way,
      and a held-out one is held out either way, so that every stage sees one training set.

  Returns:
    A dataset that has passed `dataset.checked`.

  Raises:
    UserError: the source, a class or the test set is missing, or the images cannot be used.
  """
  if data.source not in SOURCES:
    raise UserError(f"data.source is {data.source!r}: set it to one of {', '.join(SOURCES)}.")
  pools = SOURCES[data.source](data)
  if data.classes:
    pools = _select_classes(pools, data.classes)
  train, test = pools.train, pools.test
  if test is None and data.test_fraction > 0:
    train, test = _hold_out(train, data.test_fraction, data.seed)
    logging.info("%s: held out %d of %d images", pools.name, len(test), len(pools.train))
  if test is None and need_test:
    raise UserError(
      f"{pools.name} has no test set: set data.test_fraction above 0 to hold one out, or add test "
      "images."
    )
  train = _at_most(train, data.max_train, data.seed, Draw.TRAIN)
  if test is not None:
    test = _at_most(test, data.max_test, data.seed, Draw.TEST)
  gigabytes = _decoded_bytes(train, test) / 1e9
  lazy = gigabytes > data.memory
  if lazy:
    logging.info(
      "%s: %.3g GB of images exceed data.memory (%g): they are read whenever they are needed",
      pools.name,
      gigabytes,
      data.memory,
    )
  loaded = dataset.Dataset(
    name=pools.name,
    train=_read(train, pools.name, lazy),
    test=None if test is None else _read(test, pools.name, lazy),
    class_names=pools.class_names,
  )
  if loaded.test is not None and not data.size:
    _check_one_size(loaded)
  return dataset.checked(loaded)


def _select_classes(pools: Pools, classes: tuple[str, ...]) -> Pools:
  """Keeps `classes` and numbers them in the given order."""
  unknown = sorted(set(classes) - set(pools.class_names))
  if unknown:
    raise UserError(
      f"data.classes names {unknown[0]!r}, which {pools.name} does not have: choose from "
      f"{_listed(pools.class_names)}."
    )
  if len(set(classes)) != len(classes):
    raise UserError("data.classes names a class twice: name every class once.")
  new_label = np.full(len(pools.class_names), -1)
  new_label[[pools.class_names.index(name) for name in classes]] = np.arange(len(classes))

  def select(pool: Pool) -> Pool:
    return pool.relabelled(new_label).take(np.flatnonzero(new_label[pool.labels] >= 0))

  return Pools(
    pools.name, select(pools.train), None if pools.test is None else select(pools.test), classes
  )


def _listed(names: tuple[str, ...], limit: int = 20) -> str:
  return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _hold_out(pool: Pool, fraction: float, seed: int) -> tuple[Pool, Pool]:
  """Splits a pool into training and test examples, each class in the same proportion."""
  chosen = stratified(pool.labels, round(fraction * len(pool)), seed, Draw.HELD_OUT)
  return pool.take(np.setdiff1d(np.arange(len(pool)), chosen)), pool.take(chosen)


def _at_most(pool: Pool, limit: int, seed: int, draw: Draw) -> Pool:
  if not 0 < limit < len(pool):
    return pool
  return pool.take(stratified(pool.labels, limit, seed, draw))


def _decoded_bytes(*pools: Pool | None) -> int:
  """Of all images, if they have the size of the first ones."""
  return sum(len(pool) * pool.read(np.zeros(1, int)).nbytes for pool in pools if pool)


def _read(pool: Pool, name: str, lazy: bool) -> dataset.Split:
  if lazy and len(pool):
    images = reader.scan(pool.read, len(pool), name)
  else:
    images = pool.read(np.arange(len(pool)))
  return dataset.Split(images, pool.labels.astype(np.int32), pool.files)


def _check_one_size(loaded: dataset.Dataset) -> None:
  train, test = loaded.train.images.shape[1:3], loaded.test.images.shape[1:3]
  if train != test and 0 not in train + test:  # `checked` reports an empty split
    raise UserError(
      f"Training images of {loaded.name} are {train[1]} x {train[0]} pixels and test images "
      f"{test[1]} x {test[0]}: set data.size to bring them to one size."
    )
