"""Finds the sizes of a dataset: from a list of public datasets, or by reading the data."""

import dataclasses
import re
from collections.abc import Sequence

from miue_jax.data import sources
from miue_jax.settings.config import Data
from miue_jax.settings.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The sizes of a dataset.

  Attributes:
    image: Height, width, channels.
    train: Number of training images.
    test: Number of test images, at least 1.
    classes: Number of classes.
  """

  image: tuple[int, int, int]
  train: int
  test: int
  classes: int


_LARGEST = 4096  # pixels of a side, or channels
_DIGITS = 1797
# Public datasets, which have one form.
_PUBLIC = {
  "cifar10": Sizes((32, 32, 3), 50_000, 10_000, 10),
  "cifar100": Sizes((32, 32, 3), 50_000, 10_000, 100),
  "svhn_cropped": Sizes((32, 32, 3), 73_257, 26_032, 10),
  "mnist": Sizes((28, 28, 1), 60_000, 10_000, 10),
  "fashion_mnist": Sizes((28, 28, 1), 60_000, 10_000, 10),
}


def known(data: Data) -> Sizes | None:
  """Returns the sizes of a public dataset without reading it, or None if they are not listed."""
  if data.classes or (data.train_split, data.test_split) != (Data.train_split, Data.test_split):
    return None
  if data.source == "digits":
    test = round(data.test_fraction * _DIGITS)
    size = Sizes((32, 32, 1), _DIGITS - test, max(test, 1), 10)
  elif data.source == "tfds" and data.name in _PUBLIC:
    size = _PUBLIC[data.name]
  else:
    return None
  side = (data.size, data.size) if data.size else size.image[:2]
  train = min(size.train, data.max_train or size.train)
  test = min(size.test, data.max_test or size.test)
  return Sizes((*side, size.image[2]), train, test, size.classes)


def read(data: Data) -> Sizes:
  """Loads a dataset and returns its sizes.

  Raises:
    UserError: The data cannot be read.
  """
  loaded = sources.load(data, need_test=False)
  test = 0 if loaded.test is None else len(loaded.test)
  return Sizes(loaded.train.images.shape[1:], len(loaded.train), max(test, 1), loaded.num_classes)


def image_shape(numbers: Sequence[str] | None) -> tuple[int, int, int] | None:
  """Returns the value of `--image_shape` as height, width and channels, or None if it is empty.

  Raises:
    UserError: The value is not three integers from 1 to 4096, the last of them 1 or 3.
  """
  if not numbers:
    return None
  sound = (re.fullmatch("[1-9][0-9]{0,3}", n) and int(n) <= _LARGEST for n in numbers)
  if len(numbers) != 3 or not all(sound):
    raise UserError(
      f"--image_shape is {','.join(numbers)}; give height,width,channels, such as 32,32,3, each at "
      f"most {_LARGEST}."
    )
  height, width, channels = map(int, numbers)
  if channels not in (1, 3):
    raise UserError(
      f"--image_shape is {','.join(numbers)}; images have 1 or 3 channels, the last of the numbers."
    )
  return height, width, channels
