"""Datasets of TensorFlow Datasets, read without TensorFlow."""

import io
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from miue_jax.data import pixels, reader
from miue_jax.data.pool import Pool, Pools
from miue_jax.settings import config
from miue_jax.settings.errors import UserError

_DEFAULT_TEST_SPLIT = config.Data.test_split


def load(data: config.Data) -> Pools:
  """Reads the dataset `data.name` below `data.path`, tfds's `data_dir`.

  Images and labels are the features that the dataset's supervised keys name, else its first `Image`
  and its first `ClassLabel`. A dataset that is not on disk is downloaded and prepared, for which
  tfds needs TensorFlow and a network; reading needs neither. Where there is no split `test`, the
  test set is held out; any other `data.test_split` must exist.

  Raises:
    UserError: an unknown dataset or split, one without images and labels, one with unlabelled
      examples, or one that can be neither read nor prepared.
  """
  if not data.name:
    raise UserError("data.source is tfds but data.name is empty: name a dataset, such as cifar10.")
  # Importing it takes seconds, which other sources should not cost.
  import tensorflow_datasets as tfds

  builder = _prepared_builder(tfds, data)
  image_key, label_key = _keys(tfds, data.name, builder.info)
  image_feature = builder.info.features[image_key]
  if image_feature.np_dtype != np.uint8:
    raise UserError(
      f"{data.name} has {np.dtype(image_feature.np_dtype)} images; only uint8 images can be used: "
      "choose another dataset."
    )

  def pool(split: str) -> Pool:
    records = _records(tfds, data.name, builder, split, image_key)
    labels = reader.by_process(
      len(records),
      lambda ids: np.array([records[index][label_key] for index in ids.tolist()], np.int32),
    ).astype(np.int64)
    if (labels < 0).any():
      raise UserError(
        f"Split {split!r} of {data.name} has examples without a label: choose another split."
      )
    gray = image_feature.shape[-1] == 1

    def read(chosen: np.ndarray) -> np.ndarray:
      def fetch(part: slice) -> list[tuple[pixels.File, str]]:
        return [
          (io.BytesIO(records[index][image_key]), f"Image {index} of {data.name} ({split})")
          for index in chosen[part].tolist()
        ]

      return pixels.decode_all(fetch, len(chosen), gray=gray, size=data.size)

    return Pool(labels, read)

  train = pool(data.train_split)
  has_test = data.test_split != _DEFAULT_TEST_SPLIT or data.test_split in builder.info.splits
  test = pool(data.test_split) if has_test else None
  return Pools(data.name, train, test, tuple(builder.info.features[label_key].names))


def _prepared_builder(tfds: types.ModuleType, data: config.Data) -> Any:
  """Returns the builder of a dataset that is on disk, which it is put on if it can be."""
  try:
    builder = tfds.builder(data.name, data_dir=data.path or None, file_format="array_record")
  except tfds.core.registered.DatasetNotFoundError as error:
    raise UserError(
      f"{data.name} is neither a dataset that tensorflow-datasets knows nor one prepared below "
      f"{data.path or 'its default folder'}: correct data.name or data.path."
    ) from error
  except (ValueError, OSError, ImportError, RuntimeError) as error:
    raise UserError(
      f"{data.name} cannot be opened ({_first_line(error)}): correct data.name, or prepare it in "
      "the array_record format in an empty data.path."
    ) from error
  if builder.is_prepared():
    return builder
  logging.info("%s is not in %s: preparing it", data.name, builder.data_dir)
  try:
    builder.download_and_prepare()
  except Exception as error:  # Dataset scripts and downloaders raise anything at all.
    raise UserError(
      f"{data.name} is not in {builder.data_dir} and could not be prepared "
      f"({_first_line(error)}): run pip install 'miue-jax[prepare]' with a network connection, or "
      "point data.path at a folder where it is prepared in the array_record format."
    ) from error
  return builder


def _first_line(error: Exception) -> str:
  return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _keys(tfds: types.ModuleType, name: str, info: Any) -> tuple[str, str]:
  """Returns the names of the image feature and of the label feature."""
  order = list(info.features)
  if info.supervised_keys and all(isinstance(key, str) for key in info.supervised_keys):
    order = [key for key in info.supervised_keys if key in info.features] + order
  kinds = (tfds.features.Image, tfds.features.ClassLabel)
  keys = [next((k for k in order if isinstance(info.features[k], kind)), None) for kind in kinds]
  if None in keys:
    raise UserError(
      f"{name} has the features {', '.join(info.features)}, not an image and a class label: choose "
      "a dataset for image classification."
    )
  return keys[0], keys[1]


def _records(
  tfds: types.ModuleType, name: str, builder: Any, split: str, image_key: str
) -> Sequence[dict[str, Any]]:
  """Returns the records of a split, their images still encoded."""
  try:
    return builder.as_data_source(split, decoders={image_key: tfds.decode.SkipDecoding()})
  except (ValueError, KeyError, NotImplementedError, OSError) as error:
    raise UserError(
      f"Split {split!r} of {name} cannot be read ({_first_line(error)}): it has the splits "
      f"{', '.join(builder.info.splits)}."
    ) from error
