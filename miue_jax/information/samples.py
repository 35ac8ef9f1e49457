"""Checks and standardises feature arrays, and defines what an estimator returns."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from miue_jax.settings.errors import UserError, unreadable

MIN_SAMPLES = 8

# Standard deviations. None of a million normal values is further than about 5 from the mean.
_OUTLYING = 15


class Point(NamedTuple):
  """An estimate from one sample.

  Attributes:
    mi: Mutual information in nats.
    details: What the estimator chose or dropped, by name.
    warnings: Whole sentences; each one names its reason.
  """

  mi: float
  details: Mapping[str, Any] = MappingProxyType({})
  warnings: tuple[str, ...] = ()


def choose(name: str, value: str, known: Iterable[str]) -> None:
  """Raises a `UserError` where the option `name` has a value that is not among `known`."""
  if not isinstance(value, str) or value not in known:
    raise UserError(f"{name} is {value!r}: set it to one of {', '.join(known)}.")


def is_whole(value: Any) -> bool:
  """Returns whether an option is an integer; True and False are none."""
  return isinstance(value, int | np.integer) and not isinstance(value, bool)


def whole(name: str, value: Any, least: int) -> None:
  """Raises a `UserError` where the option `name` is not an integer of at least `least`."""
  if not is_whole(value) or value < least:
    raise UserError(f"{name} is {value!r}: use at least {least}, an integer.")


def as_array(values: Any, name: str) -> np.ndarray:
  """Returns an array of NumPy.

  Raises:
    UserError: The values are lists of different lengths, or an array that NumPy cannot read.
  """
  try:
    return np.asarray(values)
  except ValueError as error:
    raise UserError(f"{name}: rows have different lengths; give all of them the same.") from error
  except Exception as error:  # Array-likes of other libraries raise any exception.
    raise UserError(unreadable(name, error)) from error


def classes(labels: Any) -> np.ndarray:
  """Returns labels as an array of NumPy.

  Raises:
    UserError: They are not integers.
  """
  labels = as_array(labels, "labels")
  if labels.size and labels.dtype.kind not in "iub":
    raise UserError(f"Labels are {labels.dtype}: make them integers.")
  return labels


def checked(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
  """Returns two feature arrays `[samples, features]` as floats.

  Integers and booleans become float64, half precisions float32.

  Raises:
    UserError: An array is ragged or not two-dimensional, or holds NaN, infinity or anything but
      real numbers; the lengths differ; or there are fewer than `MIN_SAMPLES` samples.
  """
  x, y = _floats(x, "x"), _floats(y, "y")
  if len(x) != len(y):
    raise UserError(
      f"x has {len(x)} samples and y has {len(y)}: row i of both must belong to the same example."
    )
  if len(x) < MIN_SAMPLES:
    raise UserError(f"{len(x)} samples are too few: measure at least {MIN_SAMPLES}.")
  return x, y


def _floats(values: Any, name: str) -> np.ndarray:
  array = as_array(values, name)
  if array.ndim != 2 or array.shape[1] == 0:
    raise UserError(f"{name} has shape {list(array.shape)}: make it [samples, features].")
  if array.dtype.kind in "iub":
    array = array.astype(np.float64)
  if array.dtype not in (np.float32, np.float64):
    try:
      # This includes half precisions that NumPy knows only by name, such as bfloat16.
      array = array.astype(np.float32, casting="safe")
    except TypeError as error:
      raise UserError(f"{name} is {array.dtype}: convert it to float32.") from error
  if not np.isfinite(array).all():
    raise UserError(
      f"{name} holds NaN or infinity: remove these rows, or train the model again if it diverged."
    )
  return array


def notes(x: np.ndarray, y: np.ndarray) -> tuple[str, ...]:
  """Returns sentences about properties of the samples that make every estimate doubtful."""
  found = []
  for name, array in (("x", x), ("y", y)):
    if len(np.unique(array[:, 0])) == len(array):
      continue
    # The sum makes -0.0, which rounding gives as well, the same bytes as 0.0.
    repeated = len(array) - len({hash(row.tobytes()) for row in array + 0.0})
    if repeated > len(array) / 100:
      found.append(
        f"{100 * repeated / len(array):.0f} % of the rows of {name} repeat another row: if the "
        "features are discrete or quantised, the result of an estimator for continuous features "
        "depends on how ties are broken."
      )
  return tuple(found)


def standardised_columns(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the columns of `[samples, columns]` with mean 0 and standard deviation 1.

  Returns:
    float64 `[columns, samples]`, zeros where a column is constant; and a mask `[columns]` that is
    False for constant columns.
  """
  x = np.ascontiguousarray(x.T, np.float64)
  span = np.ptp(x, axis=1, keepdims=True)
  varies = span > 0
  # The range becomes one first, because the square of a large float64 would overflow.
  x = (x - x.min(axis=1, keepdims=True)) / np.where(varies, span, 1.0)
  x -= x.mean(axis=1, keepdims=True)
  return x / np.where(varies, x.std(axis=1, keepdims=True), 1.0), varies[:, 0]


def standardised(
  x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, dict[str, Any], tuple[str, ...]]:
  """Returns x and y with standardised features and without constant ones.

  Returns:
    x `[samples, kept]` and y `[samples, kept]`, both float64; details and warnings for the result.
  """
  sides, details, outliers, dropped = [], {}, (), ()
  for name, array in (("x", x), ("y", y)):
    columns, varies = standardised_columns(array)
    side, count = np.ascontiguousarray(columns[varies].T), int((~varies).sum())
    details[f"dropped_{name}"] = count
    if (largest := np.abs(side).max(initial=0)) > _OUTLYING:
      outliers += (
        f"{name} holds a value {largest:.0f} standard deviations from the mean of its feature: "
        "outliers or long tails set the scale of everything else, so the estimate may be far off; "
        "ranks or arcsinh of every feature have the same information.",
      )
    if count:
      features = "features" if count > 1 else "feature"
      dropped += (f"Dropped {count} constant {features} of {name}: they carry no information.",)
    sides.append(side)
  return *sides, details, outliers + dropped


def one_by_one(
  point: Callable[..., Point], x: ArrayLike, y: ArrayLike, **options: Any
) -> np.ndarray:
  """Returns the estimate of `point` for every column of `[samples, columns]`, one by one."""
  x, y = np.asarray(x), np.asarray(y)
  return np.array([point(x[:, [i]], y[:, [i]], **options).mi for i in range(x.shape[1])])
