"""Feature arrays as the estimators take them, and what an estimator gives back."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from miue_jax.settings.errors import UserError

MIN_SAMPLES = 8

# Standard deviations: of a million normal values none is further than about 5 from the mean.
_OUTLYING = 15


class Point(NamedTuple):
  """An estimate from one sample.

  Attributes:
    mi: nats.
    details: what the estimator chose or dropped by itself, by name.
    warnings: whole sentences; each names the reason.
  """

  mi: float
  details: Mapping[str, Any] = MappingProxyType({})
  warnings: tuple[str, ...] = ()


def checked(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
  """Two feature arrays `[samples, features]` as floats: integers and booleans become float64.

  Raises:
    UserError: not two-dimensional, not real numbers, NaN or infinity, different lengths, or fewer
      than `MIN_SAMPLES` samples.
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
  array = np.asarray(values)
  if array.ndim != 2 or array.shape[1] == 0:
    raise UserError(f"{name} has shape {list(array.shape)}: make it [samples, features].")
  if array.dtype.kind in "iub":
    array = array.astype(np.float64)
  if array.dtype not in (np.float32, np.float64):
    try:
      # Half precisions, also those that NumPy knows only by name.
      array = array.astype(np.float32, casting="safe")
    except TypeError as error:
      raise UserError(f"{name} is {array.dtype}: convert it to float32.") from error
  if not np.isfinite(array).all():
    raise UserError(
      f"{name} holds NaN or infinity: remove those rows, or train the model again if it diverged."
    )
  return array


def notes(x: np.ndarray, y: np.ndarray) -> tuple[str, ...]:
  """Sentences about what in the samples makes any estimate doubtful."""
  found = []
  for name, array in (("x", x), ("y", y)):
    if len(np.unique(array[:, 0])) == len(array):
      continue
    repeated = len(array) - len({hash(row.tobytes()) for row in array})
    if repeated > len(array) / 100:
      found.append(
        f"{100 * repeated / len(array):.0f} % of the rows of {name} repeat another row: if the "
        "features are discrete or quantised, the result of an estimator for continuous features "
        "depends on how ties are broken."
      )
  return tuple(found)


def standardised(x: np.ndarray) -> tuple[np.ndarray, int]:
  """Features with mean 0 and standard deviation 1, float64, without those that are constant.

  Returns:
    `[samples, kept]`, and the number of features that were dropped.
  """
  columns, varies = standardised_columns(x)
  return np.ascontiguousarray(columns[varies].T), int((~varies).sum())


def standardised_columns(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Every column of `[samples, columns]` with mean 0 and standard deviation 1.

  Returns:
    float64 `[columns, samples]`, zeros where a column is constant, and `[columns]`: which vary.
  """
  x = np.ascontiguousarray(x.T, np.float64)
  span = np.ptp(x, axis=1, keepdims=True)
  varies = span > 0
  # First to a range of one: the square of a large float64 would overflow.
  x = (x - x.min(axis=1, keepdims=True)) / np.where(varies, span, 1.0)
  x -= x.mean(axis=1, keepdims=True)
  return x / np.where(varies, x.std(axis=1, keepdims=True), 1.0), varies[:, 0]


def both_standardised(
  x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, dict[str, Any], tuple[str, ...]]:
  """`standardised` of both sides, with details and warnings for the result."""
  (x, dropped_x), (y, dropped_y) = standardised(x), standardised(y)
  warnings = tuple(
    f"{name} holds a value {np.abs(side).max():.0f} standard deviations from the mean of its "
    "feature: outliers or long tails set the scale of everything else, so the estimate may be far "
    "off; ranks or arcsinh of every feature have the same information."
    for name, side in (("x", x), ("y", y))
    if np.abs(side).max(initial=0) > _OUTLYING
  )
  warnings += tuple(
    f"Dropped {count} constant feature{'s' if count > 1 else ''} of {name}: they carry nothing."
    for name, count in (("x", dropped_x), ("y", dropped_y))
    if count
  )
  return x, y, {"dropped_x": dropped_x, "dropped_y": dropped_y}, warnings


def one_by_one(point: Callable[..., Point], x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """`point(x, y).mi` (nats) of every slice of `[samples, slices, k]`, as `[slices]`."""
  return np.array([point(x[:, i], y[:, i]).mi for i in range(x.shape[1])])
