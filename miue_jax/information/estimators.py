"""One call per estimator: the estimate with its settings, an interval, a null and warnings."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy import stats

from miue_jax.information import gaussian, histogram, kde, knn, neural, projection, samples
from miue_jax.information.samples import Point
from miue_jax.settings.errors import UserError

INTERVAL = (
  "estimate -+ Student's t times the standard deviation over random halves of the samples, drawn "
  "without replacement (the delete-half jackknife of Shao and Wu 1989, whose variance is that of "
  "the whole sample), because repeated samples would look like dependence to k-NN, KDE and "
  "held-out bounds; it holds the sampling error, not the bias"
)

DIRECTIONS = ("shared", "independent")
STATISTICS = ("mean", "max")

# `(x [samples, dx], y [samples, dy], **settings) -> Point`
POINTS: dict[str, Callable[..., Point]] = {
  "histogram": histogram.point,
  "kde": kde.point,
  "knn": knn.point,
  "mine": neural.mine,
  "infonce": neural.infonce,
  "nwj": neural.nwj,
  "gaussian": gaussian.point,
}

# `(x [samples, columns], y [samples, columns], **settings) -> [columns]`: all slices at once.
_COLUMNS = {
  "histogram": histogram.slice_values,
  "kde": kde.slice_values,
  "knn": knn.slice_values,
  "gaussian": gaussian.slice_values,
}


@dataclasses.dataclass(frozen=True)
class Estimate:
  """An estimate of mutual information and what is needed to judge it.

  Attributes:
    estimator: its name in `ESTIMATORS`.
    mi: nats.
    settings: every setting, also those left at their default.
    samples: number of pairs.
    features: of x and of y.
    details: what the estimator chose by itself.
    interval: low and high, nats, or None when `bootstrap` is 0.
    interval_method: how it was made.
    null_mean: mean estimate of pairs whose y is permuted, nats, or None when `null` is 0.
    null_std: their standard deviation, nats.
    p_value: share of them, this estimate counted as one, with at least the estimate.
    warnings: whole sentences; each names the reason.
  """

  estimator: str
  mi: float
  settings: dict[str, Any]
  samples: int
  features: tuple[int, int]
  details: dict[str, Any]
  interval: tuple[float, float] | None
  interval_method: str | None
  null_mean: float | None
  null_std: float | None
  p_value: float | None
  warnings: tuple[str, ...]


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
  **settings: Any,
) -> Estimate:
  """Mutual information of two feature arrays by one estimator, with interval, null and checks.

  Args:
    name: a key of `ESTIMATORS`.
    x: `[samples, dx]`, numbers of any real type.
    y: `[samples, dy]`, row i from the same example as row i of x.
    bootstrap: random halves for the interval, at least 2; 0 for no interval.
    null: shuffled pairs, at least 2; 0 for none.
    confidence: of the interval.
    seed: of halves and shuffles, and of whatever the estimator draws.
    **settings: of the estimator.

  Raises:
    UserError: features that cannot be measured, or settings that do not fit.
  """
  point = (POINTS | {"sliced": sliced})[name]
  settings = _complete(name, point, settings, seed)
  if 1 in (bootstrap, null) or min(bootstrap, null) < 0 or not 0 < confidence < 1:
    raise UserError(
      f"bootstrap {bootstrap}, null {null}, confidence {confidence}: repetitions are 0 or at least "
      "2, and confidence is between 0 and 1."
    )
  x, y = samples.checked(x, y)
  count, rng = len(x), np.random.default_rng([seed, 0x6E756C6C])
  found = point(x, y, **settings)
  halves = [rng.permutation(count)[: count // 2] for _ in range(bootstrap)]
  try:
    parts = [point(x[half], y[half], **settings).mi for half in halves]
  except UserError as error:
    raise UserError(
      f"The interval is made of halves of the {count} samples, and they are too small ({error}): "
      "measure more samples, or set bootstrap to 0."
    ) from error
  shuffled = [point(x, y[rng.permutation(count)], **settings).mi for _ in range(null)]
  interval = null_mean = null_std = p_value = None
  warnings = samples.notes(x, y) + found.warnings
  if parts:
    margin = float(np.std(parts, ddof=1) * stats.t.ppf((1 + confidence) / 2, bootstrap - 1))
    interval = found.mi - margin, found.mi + margin
  if shuffled:
    null_mean, null_std = float(np.mean(shuffled)), float(np.std(shuffled, ddof=1))
    as_large = sum(value >= found.mi for value in shuffled)
    p_value = (1 + as_large) / (1 + null)
    if as_large > 0.05 * null:
      warnings += (
        f"{as_large} of {null} shuffles of the pairs give as "
        "much: this estimator and this number of samples do not show that x and y depend on each "
        "other.",
      )
  return Estimate(
    estimator=name,
    mi=found.mi,
    settings=settings
    | {"bootstrap": bootstrap, "null": null, "confidence": confidence, "seed": seed},
    samples=count,
    features=(x.shape[1], y.shape[1]),
    details=dict(found.details),
    interval=interval,
    interval_method=INTERVAL if parts else None,
    null_mean=null_mean,
    null_std=null_std,
    p_value=p_value,
    warnings=warnings,
  )


def sliced(
  x: np.ndarray,
  y: np.ndarray,
  *,
  estimator: str = "histogram",
  slices: int = 1000,
  directions: str = "shared",
  statistic: str = "mean",
  k: int = 1,
  inner: dict[str, Any] | None = None,
  seed: int = 0,
) -> Point:
  """Sliced mutual information (nats): of random projections of features `[samples, features]`.

  Args:
    x: `[samples, dx]`.
    y: `[samples, dy]`.
    estimator: of each slice, a key of `POINTS`. Slices of one dimension are measured many at a time
      by histograms, kde, knn and gaussian. Networks are trained one after the other: each stops by
      itself, and on a core a hundred steps of eight together take no less time.
    slices: number of directions, or of subspaces.
    directions: `shared`, where x and y are projected on the same ones (for features of one space),
      or `independent`, as Goldfeld and Greenewald (NeurIPS 2021) define sliced information.
    statistic: `mean`, or `max`, which chooses the best slice on one half of the samples and reports
      it on the other, so that chance does not choose: a lower bound of the largest.
    k: dimensions of a slice (Goldfeld et al., NeurIPS 2022, for more than one).
    inner: settings of the estimator of each slice.
    seed: of directions, halves and the estimator.

  Raises:
    UserError: settings that do not fit, or shared directions for different numbers of features.
  """
  if estimator not in POINTS:
    raise UserError(f"estimator is {estimator!r}: set it to one of {', '.join(POINTS)}.")
  for name, value, known in (
    ("directions", directions, DIRECTIONS),
    ("statistic", statistic, STATISTICS),
  ):
    if value not in known:
      raise UserError(f"{name} is {value!r}: set it to one of {', '.join(known)}.")
  if slices < 1 or not 1 <= k <= min(x.shape[1], y.shape[1]):
    raise UserError(
      f"slices is {slices} and k is {k}: use at least one slice, of no more dimensions than x "
      "and y have."
    )
  if directions == "shared" and x.shape[1] != y.shape[1]:
    raise UserError(
      f"x has {x.shape[1]} features and y has {y.shape[1]}: directions can only be shared between "
      "equal numbers, so set directions to independent."
    )
  settings = _complete(estimator, POINTS[estimator], inner or {}, seed)
  x_directions = y_directions = projection.draw(x.shape[1], slices, k, seed)
  if directions == "independent":
    y_directions = projection.draw(y.shape[1], slices, k, [seed, 1])

  def values(rows: np.ndarray, chosen: slice) -> np.ndarray:
    over = functools.partial(_slice_values, estimator, settings)
    return projection.over(over, x[rows], y[rows], x_directions[:, chosen], y_directions[:, chosen])

  details: dict[str, Any] = {"directions": f"{directions} between x and y", "inner": settings}
  rows, first = np.arange(len(x)), 0
  if statistic == "mean":
    found = values(rows, slice(None))
    mi, details["std_over_slices"] = float(found.mean()), float(found.std())
  else:
    order = np.random.default_rng([seed, 0x6D6178]).permutation(len(x))
    choosing, rows = np.array_split(order, 2)
    first = details["best_slice"] = int(np.argmax(values(choosing, slice(None))))
    mi = float(values(rows, slice(first, first + 1))[0])
  # What the estimator has to say of one slice holds for all.
  one = x[rows] @ x_directions[:, first], y[rows] @ y_directions[:, first]
  warnings = POINTS[estimator](*one, **settings).warnings
  return Point(mi, details, tuple(f"Of a slice: {warning}" for warning in warnings))


def _slice_values(
  estimator: str, settings: dict[str, Any], x: jax.Array, y: jax.Array
) -> np.ndarray:
  """The estimator on every slice of `[samples, slices, k]`, as `[slices]`.

  What is not measured many slices at a time is still compiled once.
  """
  if estimator in _COLUMNS and x.shape[2] == 1:
    return _COLUMNS[estimator](x[..., 0], y[..., 0], **settings)
  one = functools.partial(POINTS[estimator], **settings)
  return samples.one_by_one(one, np.asarray(x), np.asarray(y))


def _complete(
  name: str, point: Callable[..., Point], settings: dict[str, Any], seed: int
) -> dict[str, Any]:
  """All settings of an estimator, defaults included.

  Raises:
    UserError: one that it does not have.
  """
  keywords = {
    key: parameter.default
    for key, parameter in inspect.signature(point).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
  }
  if unknown := sorted(set(settings) - set(keywords)):
    raise UserError(
      f"The estimator {name} has no setting {unknown[0]!r}; it has {', '.join(keywords)}."
    )
  return keywords | ({"seed": seed} if "seed" in keywords else {}) | settings


ESTIMATORS: dict[str, Callable[..., Estimate]] = {
  name: functools.partial(estimate, name) for name in (*POINTS, "sliced")
}
