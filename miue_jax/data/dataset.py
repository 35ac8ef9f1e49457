"""Defines datasets: uint8 images, integer labels and names of classes."""

import dataclasses
import functools
import hashlib

import numpy as np

from miue_jax.data.images import Images
from miue_jax.settings.errors import UserError


@dataclasses.dataclass(frozen=True)
class Split:
  """Provides images with their labels.

  Attributes:
    images: Images uint8 `[N, H, W, C]`, where C is 1 (gray) or 3 (RGB). An array is wrapped.
    labels: Integer labels `[N]` in `[0, number of classes)`.
    files: Path of each image, relative to the class folder and without a suffix
      (`"holiday/img_0012"`), so that an export keeps the names. None if there are no files.
    rows: Index of each image in its source, int64 `[N]`; None where that is not known.
  """

  images: Images
  labels: np.ndarray
  files: tuple[str, ...] | None = None
  rows: np.ndarray | None = None

  def __post_init__(self):
    if not isinstance(self.images, Images):
      object.__setattr__(self, "images", Images(self.images))

  def __len__(self) -> int:
    return len(self.images)

  def take(self, chosen: np.ndarray) -> "Split":
    """Returns the examples with the indices `chosen`, in this order."""
    files = None if self.files is None else tuple(self.files[i] for i in chosen)
    rows = None if self.rows is None else self.rows[chosen]
    return Split(self.images.take(chosen), self.labels[chosen], files, rows)


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Provides a training set, perhaps a test set, and the names of the classes.

  Attributes:
    name: Name in tables and messages.
    train: Training examples.
    test: Test examples; None only if no stage needs them (`generate`, `export`, `restore`).
    class_names: Name of each label.
  """

  name: str
  train: Split
  test: Split | None
  class_names: tuple[str, ...]

  @property
  def test_set(self) -> Split:
    """Returns the test examples, for stages that need them."""
    assert self.test is not None, f"{self.name} was loaded without test images"
    return self.test

  @property
  def num_classes(self) -> int:
    """Returns the number of classes."""
    return len(self.class_names)

  @functools.cached_property
  def fingerprint(self) -> str:
    """Returns the hexadecimal sha256 of the shape, the digests and the labels of `train`.

    The test set does not count, because a poison changes training images only.
    """
    digest = hashlib.sha256()
    digest.update(repr(self.train.images.shape).encode())
    digest.update(self.train.images.digests.tobytes())
    digest.update(np.ascontiguousarray(self.train.labels, dtype="<i4").tobytes())
    return digest.hexdigest()


def checked(dataset: Dataset) -> Dataset:
  """Returns `dataset` after checks of everything that later stages assume.

  Raises:
    UserError: A wrong type or shape, labels out of range, an empty split, a class with fewer than
      two training images (similarity within a class needs a pair), or test images of another shape.
  """
  for part, split in (("training", dataset.train), ("test", dataset.test)):
    if split is not None:
      _check_split(dataset, part, split)
  counts = np.bincount(dataset.train.labels, minlength=dataset.num_classes)
  if dataset.num_classes < 2:
    raise UserError(
      f"{dataset.name} has one class; a classifier needs at least two: add images of another class."
    )
  if counts.min() < 2:
    name = dataset.class_names[int(counts.argmin())]
    raise UserError(
      f"Class {name!r} of {dataset.name} has {counts.min()} training image(s); every class needs "
      "at least 2: add images or remove the class, so that labels are 0, 1, 2, ... without gaps."
    )
  if dataset.test is not None and dataset.test.images.shape[1:] != dataset.train.images.shape[1:]:
    raise UserError(
      f"Test images of {dataset.name} are {dataset.test.images.shape[1:]}, training images "
      f"{dataset.train.images.shape[1:]}: both need the same height, width and channels."
    )
  return dataset


def _check_split(dataset: Dataset, part: str, split: Split) -> None:
  shape, dtype, labels = split.images.shape, split.images.dtype, split.labels
  where = f"The {part} images of {dataset.name}"
  if dtype != np.uint8:
    raise UserError(f"{where} are {dtype}: convert them to uint8 in 0..255.")
  if len(shape) != 4 or shape[-1] not in (1, 3):
    raise UserError(f"{where} have shape {shape}; expected [N, H, W, 1] or [N, H, W, 3].")
  if shape[0] == 0:
    raise UserError(f"{where} are missing: the split is empty.")
  if labels.shape != shape[:1] or not np.issubdtype(labels.dtype, np.integer):
    raise UserError(
      f"{where} have labels of shape {labels.shape} and type {labels.dtype}; expected {shape[0]} "
      "integers."
    )
  if labels.min() < 0 or labels.max() >= dataset.num_classes:
    raise UserError(
      f"{where} have labels from {labels.min()} to {labels.max()}; with {dataset.num_classes} "
      f"classes they must be in 0..{dataset.num_classes - 1}."
    )
