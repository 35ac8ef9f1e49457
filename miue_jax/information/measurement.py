"""What `measure` finds out about two feature arrays: estimates, and the terms of the theory."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import threadpoolctl

from miue_jax.data.images import Images
from miue_jax.data.sampling import Draw, stratified
from miue_jax.information import files, histogram, separability, theory
from miue_jax.information.estimators import ESTIMATORS, Estimate
from miue_jax.settings.config import Measure
from miue_jax.settings.errors import UserError

# These look at all features at once; the others are made for a few and see random projections.
NEURAL = ("mine", "infonce", "nwj")

# How to read two numbers of a row, for the settings that are kept beside it.
INTERVAL = "95 %, by random halves of the samples: it holds the sampling error, not the bias"
NULL = "mean and standard deviation of the estimate when pairs are shuffled, whose information is 0"

# Pixels given to the linear classifier, 256 MB: of large images it sees fewer.
_PIXELS = 1 << 26

_TERMS = ("intra_cosine", "inter_cosine", "effective_rank", "divergence")
_EIGENVALUES = 32  # of a class that are kept, the largest

Row = dict[str, Any]


def estimates(x: np.ndarray, y: np.ndarray, settings: Measure) -> list[Row]:
  """Mutual information by every estimator of `settings`.

  Args:
    x: features of clean images, `[samples, dx]`.
    y: features of the released ones, `[samples, dy]`, in the same order.
    settings: of the experiment.

  Returns:
    One row for each: `estimator`, `mi` (nats), `std` (over projections), `interval` (low, high),
    `null_mean`, `null_std`, `p_value`, `warnings` and `settings`; None for what was not asked for.

  Raises:
    UserError: features that cannot be measured.
  """
  return [_row(_estimate(name, x, y, settings)) for name in settings.estimators]


def attempted(x: np.ndarray, y: np.ndarray, settings: Measure) -> list[Row]:
  """As `estimates`, but where an estimator fails its row says why, so that a long run goes on."""
  rows = []
  for name in settings.estimators:
    try:
      rows.append(_row(_estimate(name, x, y, settings)))
    except UserError as error:
      empty = dict.fromkeys(("mi", "std", "interval", "null_mean", "null_std", "p_value"))
      rows.append({"estimator": name} | empty | {"warnings": [str(error)], "settings": {}})
  return rows


def _estimate(name: str, x: np.ndarray, y: np.ndarray, settings: Measure) -> Estimate:
  shared = {"bootstrap": settings.bootstrap, "null": settings.null, "seed": settings.seed}
  own = _own(name, settings)
  if name in NEURAL or x.shape[1] == y.shape[1] == 1:
    return ESTIMATORS[name](x, y, **own, **shared)
  return ESTIMATORS["sliced"](
    x,
    y,
    estimator=name,
    slices=settings.projections,
    directions=settings.directions,
    statistic=settings.statistic,
    k=settings.slice_dimensions,
    inner=own,
    **shared,
  )


def _own(name: str, settings: Measure) -> dict[str, Any]:
  """What the experiment says about one estimator, by the names of its own settings."""
  if name in NEURAL:
    return {"steps": settings.critic_steps, "batch": settings.critic_batch}
  return {
    "histogram": {"bins": settings.bins, "correction": settings.correction},
    "kde": {"bandwidth": settings.bandwidth, "scale": settings.bandwidth_scale},
    "knn": {"k": settings.neighbours, "variant": settings.variant},
    "gaussian": {"covariance": settings.covariance},
  }[name]


def _row(found: Estimate) -> Row:
  std = found.details.get("std_over_slices")
  details = {key: value for key, value in found.details.items() if key != "std_over_slices"}
  inner = found.settings.get("estimator")
  return {
    "estimator": f"{found.estimator} {inner}" if inner else found.estimator,
    "mi": round(found.mi, 5),
    "std": _rounded(std),
    "interval": [round(end, 5) for end in found.interval] if found.interval else None,
    "null_mean": _rounded(found.null_mean),
    "null_std": _rounded(found.null_std),
    "p_value": _rounded(found.p_value),
    "warnings": list(found.warnings),
    "settings": found.settings | details,
  }


def _rounded(value: float | None) -> float | None:
  return None if value is None else round(value, 5)


def between_files(
  features: pathlib.Path,
  released: pathlib.Path,
  settings: Measure,
  keys: tuple[str, str] = ("", ""),
) -> dict[str, Any]:
  """Measures features that somebody brings.

  Args:
    features: `.npz` file with those of the clean images, `[samples, dx]`.
    released: with those of the released images, `[samples, dy]`, in the same order.
    settings: at most `samples` rows are used, chosen by `seed`; 0 uses all.
    keys: names of the arrays, empty where a file holds only one.

  Returns:
    `settings` and `rows`.

  Raises:
    UserError: files or features that cannot be measured.
  """
  x, y = files.load(features, keys[0]), files.load(released, keys[1])
  if len(x) != len(y):
    raise UserError(
      f"{features} has {len(x)} rows and {released} has {len(y)}: row i of both must belong to the "
      "same image."
    )
  count = len(x)
  if 0 < settings.samples < count:
    order = np.random.default_rng([settings.seed, Draw.SAMPLE]).permutation(count)
    chosen = np.sort(order[: settings.samples])
    x, y = x[chosen], y[chosen]
  return {
    "settings": {
      "features": str(features),
      "released": str(released),
      "samples": len(x),
      "of": count,
      "seed": settings.seed,
      "interval": INTERVAL,
      "null": NULL,
    },
    "rows": estimates(x, y, settings),
  }


def observation(
  before: np.ndarray, after: np.ndarray, labels: np.ndarray, settings: Measure
) -> list[float]:
  """Two numbers of the features of a model that is still being made.

  Args:
    before: features of clean images, `[samples, d]`.
    after: of the poisoned ones.
    labels: integers, `[samples]`.
    settings: `projections`, `bins` and `seed` of the histogram.

  Returns:
    Mean histogram information over random projections, and `1/2 E_Y ln det Sigma_Y` of `after`,
    nats.

  Raises:
    UserError: features that cannot be measured.
  """
  found = histogram.sliced(
    before, after, projections=settings.projections, bins=settings.bins, seed=settings.seed
  )
  with threadpoolctl.threadpool_limits(1, user_api="blas"):  # as in `geometry`
    return [round(found.mi, 5), round(theory.covariance_term(after, labels), 5)]


def geometry(
  before: np.ndarray, after: np.ndarray, labels: np.ndarray, seed: int
) -> dict[str, Any]:
  """The measurable terms of Theorem 5.1 for the features of a model, all and by class.

  Args:
    before: features of clean images, `[samples, d]`.
    after: of the released ones.
    labels: integers, `[samples]`.
    seed: of the random directions.

  Returns:
    `before` and `after` with the terms of `theory.Bound` (`half_log_det`: `1/2 ln det`), `classes`
    with those of each class and the `spectrum` of its covariance (the largest eigenvalues, and the
    `trace` of all), `skipped` labels and a `note`; or only a `note` where no class has
    enough examples.
  """
  try:
    # The matrices of one class are small: threads would mostly wait for each other.
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
      clean = theory.bound(before, labels, seed=seed)
      # Clean and restored images.
      same = np.array_equal(before, after)
      released = clean if same else theory.bound(after, labels, seed=seed)
  except UserError as error:
    return {"note": str(error)}
  return {
    "before": _terms(clean),
    "after": _terms(released),
    "classes": [
      {
        "label": a.label,
        "samples": a.samples,
        "before": _terms(a) | _spectrum(a),
        "after": _terms(b) | _spectrum(b),
      }
      for a, b in zip(clean.classes, released.classes, strict=True)
    ],
    "skipped": list(clean.skipped),
    "note": clean.note,
  }


def _terms(found: theory.Bound | theory.ClassGeometry) -> dict[str, float | None]:
  # The theorem's term, also of a class, whose `log_det` is the plain one.
  half = found.log_det / (2 if isinstance(found, theory.ClassGeometry) else 1)
  return {"half_log_det": _rounded(half)} | {
    name: _rounded(getattr(found, name)) for name in _TERMS
  }


def _spectrum(found: theory.ClassGeometry) -> dict[str, Any]:
  kept = found.spectrum[:_EIGENVALUES]
  return {
    "spectrum": [float(f"{value:.4g}") for value in kept],
    "trace": float(f"{sum(found.spectrum):.4g}"),
  }


def separable(
  released: Images,
  clean: Images | None = None,
  *,
  labels: np.ndarray,
  seed: int,
) -> dict[str, Any] | None:
  """How well a linear classifier tells the classes of images, or of perturbations alone, apart.

  Args:
    released: uint8 `[samples, height, width, channel]`, as published.
    clean: the same images before, for the perturbations; None for the images themselves.
    labels: integers, `[samples]`.
    seed: of the examples, where there are too many, and of those held out.

  Returns:
    The fields of `separability.Separability`, or only a `note` where there are too few examples;
    None for images that did not change.
  """
  count = min(len(released), max(1, _PIXELS // int(np.prod(released.shape[1:]))))
  chosen = stratified(labels, count, seed, Draw.SAMPLE)
  inputs = released[chosen]
  if clean is not None:
    inputs = inputs.astype(np.int16) - clean[chosen]
    if not inputs.any():
      return None
  try:
    found = separability.linear_separability(inputs, labels[chosen], seed=seed)
  except UserError as error:
    return {"note": str(error)}
  return dataclasses.asdict(found)
