"""What a dataset is: uint8 images, integer labels, names of the classes."""

import dataclasses
import functools
import hashlib

import numpy as np

from miue_jax.data import reader
from miue_jax.settings.errors import UserError


@dataclasses.dataclass(frozen=True)
class Split:
  """Images with their labels.

  Attributes:
    images: uint8 `[N, H, W, C]`, C is 1 (gray) or 3 (RGB). Lazy images are to be indexed in blocks
      along their first axis, by slices or integer arrays.
    labels: int32 `[N]`, in `[0, number of classes)`.
    files: where each image came from, relative to the class folder and without a suffix
      (`"holiday/img_0012"`), so that a release keeps the owner's names; `None` when the source has
      no files.
  """

  images: np.ndarray | reader.LazyImages
  labels: np.ndarray
  files: tuple[str, ...] | None = None

  def __len__(self) -> int:
    return len(self.images)

  def take(self, chosen: np.ndarray) -> "Split":
    """Returns the examples with these indices, in this order."""
    lazy = isinstance(self.images, reader.LazyImages)
    images = self.images.take(chosen) if lazy else self.images[chosen]
    files = None if self.files is None else tuple(self.files[i] for i in chosen)
    return Split(images, self.labels[chosen], files)


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A training set, perhaps a test set, and the names of the classes.

  `test` is None only where no stage needs one (`generate`, `export`, `restore`).
  """

  name: str
  train: Split
  test: Split | None
  class_names: tuple[str, ...]

  @property
  def num_classes(self) -> int:
    """How many classes there are."""
    return len(self.class_names)

  @functools.cached_property
  def fingerprint(self) -> str:
    """sha256 over shape, sha256 of every image, and labels of the training split, in hexadecimal.

    Only the training images are poisoned, so only they decide whether a poison fits.
    """
    digest = hashlib.sha256()
    digest.update(repr(self.train.images.shape).encode())
    digest.update(reader.digests(self.train.images))
    digest.update(np.ascontiguousarray(self.train.labels, dtype="<i4").data)
    return digest.hexdigest()


def checked(dataset: Dataset) -> Dataset:
  """Returns `dataset` after checking what every later stage relies on.

  Raises:
    UserError: wrong dtype or shape, labels out of range, an empty split, a class with fewer than
      two training images (similarity inside a class needs a pair), test images of another shape.
  """
  for part, split in (("training", dataset.train), ("test", dataset.test)):
    if split is not None:
      _check_split(dataset, part, split)
  counts = np.bincount(dataset.train.labels, minlength=dataset.num_classes)
  if dataset.num_classes < 2:
    raise UserError(f"{dataset.name} has one class; a classifier needs at least two.")
  if counts.min() < 2:
    name = dataset.class_names[int(counts.argmin())]
    raise UserError(
      f"Class {name!r} of {dataset.name} has {counts.min()} training image(s); every class needs "
      "at least 2: add images or remove the class."
    )
  if dataset.test is not None and dataset.test.images.shape[1:] != dataset.train.images.shape[1:]:
    raise UserError(
      f"Test images of {dataset.name} are {dataset.test.images.shape[1:]}, training images "
      f"{dataset.train.images.shape[1:]}; both need one height, width and number of channels."
    )
  return dataset


def _check_split(dataset: Dataset, part: str, split: Split) -> None:
  images, labels = split.images, split.labels
  where = f"The {part} images of {dataset.name}"
  if images.dtype != np.uint8:
    raise UserError(f"{where} are {images.dtype}; they must be uint8 in 0..255.")
  if images.ndim != 4 or images.shape[-1] not in (1, 3):
    raise UserError(f"{where} have shape {images.shape}; expected [N, H, W, 1] or [N, H, W, 3].")
  if len(images) == 0:
    raise UserError(f"{where} are missing: the split is empty.")
  if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
    raise UserError(
      f"{where} have labels of shape {labels.shape} and type {labels.dtype}; expected "
      f"{len(images)} integers."
    )
  if labels.min() < 0 or labels.max() >= dataset.num_classes:
    raise UserError(
      f"{where} have labels from {labels.min()} to {labels.max()}; with {dataset.num_classes} "
      f"classes they must lie in 0..{dataset.num_classes - 1}."
    )
