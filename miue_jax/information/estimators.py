"""Provides one call per estimator, which returns all that is needed to judge the estimate."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from scipy import stats

from miue_jax.information import gaussian, histogram, kde, knn, neural, projection, samples
from miue_jax.information.samples import Point
from miue_jax.settings.errors import UserError, unknown

DIRECTIONS = ("shared", "independent")
STATISTICS = ("mean", "max")

# These networks see all features at once; the other estimators are made for a few features.
NEURAL = ("mine", "infonce", "nwj")

# `(x [samples, dx], y [samples, dy], **options) -> Point`
POINTS: dict[str, Callable[..., Point]] = {
  "histogram": histogram.point,
  "kde": kde.point,
  "knn": knn.point,
  "mine": neural.mine,
  "infonce": neural.infonce,
  "nwj": neural.nwj,
  "gaussian": gaussian.point,
}

# `(x [samples, columns], y [samples, columns], **options) -> [columns]`: many slices at a time.
_COLUMNS = {
  "histogram": histogram.slice_values,
  "kde": kde.slice_values,
  "gaussian": gaussian.slice_values,
}


@dataclasses.dataclass(frozen=True)
class Null:
  """Estimates of shuffled pairs, whose mutual information is 0.

  Attributes:
    mean: Mean in nats.
    std: Standard deviation in nats.
    p_value: `(1 + number of them that are at least the estimate) / (1 + their number)`.
  """

  mean: float
  std: float
  p_value: float


@dataclasses.dataclass(frozen=True)
class Estimate:
  """An estimate of mutual information and what is needed to judge it.

  The interval is the estimate plus or minus Student's t times the standard deviation over random
  halves of the samples. They are drawn without replacement (the delete-half jackknife of Shao and
  Wu 1989, whose variance is that of the whole sample), because repeated samples would look like
  dependence to k-NN, KDE and held-out bounds. The interval covers the sampling error, not the bias.

  Attributes:
    estimator: Name of the estimator in `ESTIMATORS`.
    mi: Mutual information in nats.
    interval: Lower and upper end in nats; None without repetitions.
    null: Estimates of shuffled pairs; None without repetitions.
    warnings: Whole sentences; each one names its reason.
    settings: All options, with their defaults.
    samples: Number of pairs.
    features: Numbers of features of x and of y.
    details: What the estimator chose or dropped, by name.
  """

  estimator: str
  mi: float
  interval: tuple[float, float] | None
  null: Null | None
  warnings: tuple[str, ...]
  settings: dict[str, Any]
  samples: int
  features: tuple[int, int]
  details: dict[str, Any]


def mutual_information(
  features_clean: Any,
  features_public: Any,
  estimator: str = "histogram",
  *,
  projections: int = 128,
  directions: str = "shared",
  statistic: str = "mean",
  **options: Any,
) -> Estimate:
  """Estimates the mutual information between features of clean and of published images.

  The estimators `histogram`, `kde`, `knn` and `gaussian` are made for a few features. They see
  random one-dimensional projections, unless both sides have a single feature; `mine`, `infonce` and
  `nwj` see all features at once.

    >>> import numpy as np
    >>> clean, noise = np.random.default_rng(0).standard_normal((2, 1000, 8))
    >>> found = mutual_information(clean, 0.8 * clean + 0.6 * noise, "gaussian")
    >>> round(found.mi, 1), found.null.p_value < 0.05, found.warnings
    (0.5, True, ())

  Args:
    features_clean: Features of the clean images, `[samples, dx]`.
    features_public: Features of the published images, `[samples, dy]`, in the same order.
    estimator: `histogram`, `kde`, `knn`, `gaussian`, `mine`, `infonce` or `nwj`.
    projections: Number of projections.
    directions: `shared` projects both sides on the same directions and needs equal numbers of
      features; `independent` draws directions for each side.
    statistic: `mean` over the projections, or `max`, a lower bound of the largest: the projection
      is chosen on one half of the samples and measured on the other.
    **options: Options of the estimator, which `OPTIONS` lists, and those of all: `bootstrap`, the
      number of random halves for the interval (20; 0 for no interval); `null`, the number of
      shuffles of the pairs (20; 0 for none); `confidence` of the interval (0.95); and `seed` of
      every draw (0).

  Returns:
    The estimate, its interval and null in nats, with warnings.

  Raises:
    UserError: The features cannot be measured, or an option is unknown or does not fit.
  """
  samples.choose("estimator", estimator, POINTS)
  for name in options:
    if name not in OPTIONS[estimator]:
      raise UserError(unknown(name, OPTIONS[estimator]))
  x, y = samples.checked(features_clean, features_public)
  if estimator in NEURAL or x.shape[1] == y.shape[1] == 1:
    return estimate(estimator, x, y, **options)
  shared = {name: options.pop(name) for name in _keywords(estimate) if name in options}
  slicing = {"projections": projections, "directions": directions, "statistic": statistic}
  return estimate("sliced", x, y, estimator=estimator, inner=options, **slicing, **shared)


def estimate(
  name: str,
  x: Any,
  y: Any,
  /,
  *,
  bootstrap: int = 20,
  null: int = 20,
  confidence: float = 0.95,
  seed: int = 0,
  **options: Any,
) -> Estimate:
  """Estimates mutual information by one estimator, on all features or on slices.

  Args:
    name: A key of `ESTIMATORS`.
    x: Features `[samples, dx]`, numbers of any real type.
    y: Features `[samples, dy]`; row i belongs to the same example as row i of x.
    bootstrap: Number of random halves for the interval, at least 2; 0 for no interval.
    null: Number of estimates of shuffled pairs, at least 2; 0 for none.
    confidence: Confidence of the interval, between 0 and 1.
    seed: Seed of halves, shuffles, and every draw of the estimator.
    **options: Options of the estimator.

  Raises:
    UserError: The features cannot be measured, or an option is unknown or does not fit.
  """
  point = (POINTS | {"sliced": sliced})[name]
  options = _complete(point, options, seed)
  samples.whole("seed", seed, 0)
  fine = all(samples.is_whole(n) and n >= 0 and n != 1 for n in (bootstrap, null))
  if not fine or not isinstance(confidence, float | int | np.number) or not 0 < confidence < 1:
    raise UserError(
      f"bootstrap {bootstrap!r}, null {null!r}, confidence {confidence!r}: repetitions are "
      "integers, 0 or at least 2, and confidence is a number between 0 and 1."
    )
  x, y = samples.checked(x, y)
  count, rng = len(x), np.random.default_rng([seed, 0x6E756C6C])
  found = point(x, y, **options)
  halves = [rng.permutation(count)[: count // 2] for _ in range(bootstrap)]
  try:
    parts = [point(x[half], y[half], **options).mi for half in halves]
  except UserError as error:
    raise UserError(
      f"The interval is made of halves of the {count} samples, and they are too small ({error}): "
      "measure more samples, or set bootstrap to 0."
    ) from error
  shuffled = [point(x, y[rng.permutation(count)], **options).mi for _ in range(null)]
  interval, pairs = None, None
  warnings = samples.notes(x, y) + found.warnings
  if parts:
    margin = float(np.std(parts, ddof=1) * stats.t.ppf((1 + confidence) / 2, bootstrap - 1))
    interval = found.mi - margin, found.mi + margin
  if shuffled:
    as_large = sum(value >= found.mi for value in shuffled)
    p_value = (1 + as_large) / (1 + null)
    pairs = Null(float(np.mean(shuffled)), float(np.std(shuffled, ddof=1)), p_value)
    if as_large > 0.05 * null:
      warnings += (
        f"{as_large} of {null} shuffles of the pairs give as much: this estimator and this number "
        "of samples do not show that x and y depend on each other.",
      )
  repetitions = {"bootstrap": bootstrap, "null": null, "confidence": confidence, "seed": seed}
  return Estimate(
    estimator=name,
    mi=found.mi,
    interval=interval,
    null=pairs,
    warnings=warnings,
    settings=options | repetitions,
    samples=count,
    features=(x.shape[1], y.shape[1]),
    details=dict(found.details),
  )


def sliced(
  x: np.ndarray,
  y: np.ndarray,
  *,
  estimator: str = "histogram",
  projections: int = 1000,
  directions: str = "shared",
  statistic: str = "mean",
  inner: Mapping[str, Any] | None = None,
  seed: int = 0,
) -> Point:
  """Returns the sliced estimate (nats): a statistic of random one-dimensional projections.

  Args:
    x: Features `[samples, dx]`.
    y: Features `[samples, dy]`.
    estimator: Estimator of each slice, a key of `POINTS`. Networks are trained one after the other,
      since each stops after a different number of steps. On one core, training eight at the same
      time is no faster.
    projections: Number of projections.
    directions: `shared` projects x and y on the same directions, for features of one space.
      `independent` is the definition of Goldfeld and Greenewald (NeurIPS 2021).
    statistic: `mean`, or `max`, which chooses the best slice on one half of the samples and reports
      it on the other, so that chance does not choose: a lower bound of the largest.
    inner: Options of the estimator of each slice.
    seed: Seed of directions, halves and the estimator.

  Raises:
    UserError: An option does not fit, or directions are shared between different numbers of
      features.
  """
  samples.choose("estimator", estimator, POINTS)
  samples.choose("directions", directions, DIRECTIONS)
  samples.choose("statistic", statistic, STATISTICS)
  samples.whole("projections", projections, 1)
  if directions == "shared" and x.shape[1] != y.shape[1]:
    raise UserError(
      f"x has {x.shape[1]} features and y has {y.shape[1]}: directions can only be shared between "
      "equal numbers, so set directions to independent."
    )
  options = _complete(POINTS[estimator], inner or {}, seed)
  x_directions = y_directions = projection.draw(x.shape[1], projections, seed)
  if directions == "independent":
    y_directions = projection.draw(y.shape[1], projections, [seed, 1])
  value = functools.partial(_slice_values, estimator, options)

  def values(rows: np.ndarray, chosen: slice) -> np.ndarray:
    return projection.over(
      value, x[rows], y[rows], x_directions[:, chosen], y_directions[:, chosen]
    )

  details: dict[str, Any] = {"directions": f"{directions} between x and y", "inner": options}
  rows, first = np.arange(len(x)), 0
  if statistic == "mean":
    found = values(rows, slice(None))
    mi, details["std_over_slices"] = float(found.mean()), float(found.std())
  else:
    order = np.random.default_rng([seed, 0x6D6178]).permutation(len(x))
    choosing, rows = np.array_split(order, 2)
    first = details["best_slice"] = int(np.argmax(values(choosing, slice(None))))
    mi = float(values(rows, slice(first, first + 1))[0])
  # The warnings of one slice hold for all.
  one = x[rows] @ x_directions[:, [first]], y[rows] @ y_directions[:, [first]]
  warnings = POINTS[estimator](*one, **options).warnings
  return Point(mi, details, tuple(f"In one slice: {warning}" for warning in warnings))


def _slice_values(
  estimator: str, options: dict[str, Any], x: jax.Array, y: jax.Array
) -> np.ndarray:
  """Returns the estimates of all slices of `[samples, slices]`, as `[slices]`."""
  if estimator in _COLUMNS:
    return _COLUMNS[estimator](x, y, **options)
  return samples.one_by_one(POINTS[estimator], x, y, **options)


def _keywords(function: Callable[..., Any]) -> dict[str, Any]:
  """Returns the names and defaults of the keyword-only arguments of a function."""
  parameters = inspect.signature(function).parameters.values()
  return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _complete(point: Callable[..., Point], options: Mapping[str, Any], seed: int) -> dict[str, Any]:
  """Returns all options of an estimator with their defaults."""
  known = _keywords(point)
  for name in options:
    if name not in known:
      raise UserError(unknown(name, known))
  return known | ({"seed": seed} if "seed" in known else {}) | dict(options)


# Functions `(x, y, **options) -> Estimate` by the name of the estimator.
ESTIMATORS: dict[str, Callable[..., Estimate]] = {
  name: functools.partial(estimate, name) for name in (*POINTS, "sliced")
}

# Options of `mutual_information` by the name of the estimator.
OPTIONS: dict[str, tuple[str, ...]] = {
  name: tuple(_keywords(mutual_information) | _keywords(point) | _keywords(estimate))
  for name, point in POINTS.items()
}
