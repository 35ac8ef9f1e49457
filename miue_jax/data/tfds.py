"""Reads datasets of TensorFlow Datasets, without TensorFlow."""

import io
import logging
import types
from collections.abc import Sequence
from typing import Any

import numpy as np

from miue_jax.data import pixels
from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.images import LazyImages
from miue_jax.machine import sharding
from miue_jax.settings import config
from miue_jax.settings.errors import UserError, first_line

logger = logging.getLogger(__name__)

_DEFAULT_TEST_SPLIT = config.Data.test_split


def load(data: config.Data) -> Dataset:
  """Opens the dataset `data.name` below `data.path`, the `data_dir` of tfds.

  Images and labels are the features of the dataset's supervised keys, or else its first `Image` and
  its first `ClassLabel`. A dataset that is not on the disk is downloaded and prepared. For that,
  tfds needs TensorFlow and a network; reading needs neither. If there is no split `test`, a test
  set is held out later. Any other `data.test_split` must exist.

  Raises:
    UserError: The dataset or split is unknown, has no images and labels, has examples without a
      label, or can be neither read nor prepared.
  """
  if not data.name:
    raise UserError("data.source is tfds but data.name is empty: name a dataset, such as cifar10.")
  # The import takes seconds, which other sources do not need.
  import tensorflow_datasets as tfds

  builder = _prepared_builder(tfds, data)
  image_key, label_key = _keys(tfds, data.name, builder.info)
  image_feature = builder.info.features[image_key]
  if image_feature.np_dtype != np.uint8:
    raise UserError(
      f"{data.name} has {np.dtype(image_feature.np_dtype)} images; only uint8 images can be used: "
      "choose another dataset."
    )

  def load_split(split: str) -> Split:
    records = _records(tfds, data.name, builder, split, image_key)
    labels = sharding.by_process(
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

    return Split(LazyImages(read, len(records), data.name), labels)

  train = load_split(data.train_split)
  has_test = data.test_split != _DEFAULT_TEST_SPLIT or data.test_split in builder.info.splits
  test = load_split(data.test_split) if has_test else None
  return Dataset(data.name, train, test, tuple(builder.info.features[label_key].names))


def _prepared_builder(tfds: types.ModuleType, data: config.Data) -> Any:
  """Returns the builder of a dataset, which is prepared on the disk if necessary."""
  try:
    builder = tfds.builder(data.name, data_dir=data.path or None, file_format="array_record")
  except tfds.core.registered.DatasetNotFoundError as error:
    raise UserError(
      f"{data.name} is neither a dataset that tensorflow-datasets knows nor one prepared below "
      f"{data.path or 'its default folder'}: correct data.name or data.path."
    ) from error
  except (ValueError, OSError, ImportError, RuntimeError) as error:
    raise UserError(
      f"{data.name} cannot be opened ({first_line(error)}): correct data.name, or prepare it in "
      "the array_record format in an empty data.path."
    ) from error
  if builder.is_prepared():
    return builder
  logger.info("%s is not in %s: preparing it", data.name, builder.data_dir)
  try:
    builder.download_and_prepare()
  except Exception as error:  # Dataset scripts and downloaders raise any exception.
    raise UserError(
      f"{data.name} is not in {builder.data_dir} and could not be prepared "
      f"({first_line(error)}): run pip install 'miue-jax[prepare]' with a network connection, or "
      "point data.path at a folder where it is prepared in the array_record format."
    ) from error
  return builder


def _keys(tfds: types.ModuleType, name: str, info: Any) -> tuple[str, str]:
  """Returns the names of the image feature and of the label feature."""
  order = list(info.features)
  if info.supervised_keys and all(isinstance(key, str) for key in info.supervised_keys):
    order = [key for key in info.supervised_keys if key in info.features] + order
  kinds = (tfds.features.Image, tfds.features.ClassLabel)
  image, label = (
    next((key for key in order if isinstance(info.features[key], kind)), None) for kind in kinds
  )
  if image is None or label is None:
    raise UserError(
      f"{name} has the features {', '.join(info.features)}, not an image and a class label: choose "
      "a dataset for image classification."
    )
  return image, label


def _records(
  tfds: types.ModuleType, name: str, builder: Any, split: str, image_key: str
) -> Sequence[dict[str, Any]]:
  """Returns the records of a split, with encoded images."""
  try:
    return builder.as_data_source(split, decoders={image_key: tfds.decode.SkipDecoding()})
  except (ValueError, KeyError, NotImplementedError, OSError) as error:
    raise UserError(
      f"Split {split!r} of {name} cannot be read ({first_line(error)}): it has the splits "
      f"{', '.join(builder.info.splits)}."
    ) from error
