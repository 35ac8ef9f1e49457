"""Turns estimates and the terms of the theory into rows of plain numbers for JSON files."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import threadpoolctl

from miue_jax.information import theory
from miue_jax.information.estimators import Estimate, mutual_information
from miue_jax.settings.errors import UserError

# The meaning of two numbers of a row, for the settings that are saved with it.
INTERVAL = "95 %, by random halves of the samples: it holds the sampling error, not the bias"
NULL = "mean and standard deviation of the estimate when pairs are shuffled, whose information is 0"

_EIGENVALUES = 32  # saved for each class, the largest ones

Row = dict[str, Any]


def estimates(
  x: np.ndarray,
  y: np.ndarray,
  options: Mapping[str, Mapping[str, Any]],
  *,
  keep_going: bool = False,
) -> list[Row]:
  """Returns one row for each estimator.

  Args:
    x: Features of clean images, `[samples, dx]`.
    y: Features of the released images, `[samples, dy]`, in the same order.
    options: Options of `mutual_information` by the name of the estimator.
    keep_going: If True, an estimator that fails gives a row with the reason as its warning, so that
      a long run goes on.

  Returns:
    Rows with `estimator`, `mi` (nats), `std` (over projections), `interval` (low, high),
    `null_mean`, `null_std`, `p_value`, `warnings` and `settings`; None for unknown values.

  Raises:
    UserError: The features cannot be measured, and `keep_going` is False.
  """
  rows = []
  for name, chosen in options.items():
    try:
      rows.append(_row(mutual_information(x, y, name, **chosen)))
    except UserError as error:
      if not keep_going:
        raise
      empty = dict.fromkeys(("mi", "std", "interval", "null_mean", "null_std", "p_value"))
      rows.append({"estimator": name} | empty | {"warnings": [str(error)], "settings": {}})
  return rows


def _row(found: Estimate) -> Row:
  details = dict(found.details)
  std = details.pop("std_over_slices", None)
  inner = found.settings.get("estimator")
  null = found.null
  return {
    "estimator": f"{found.estimator} {inner}" if inner else found.estimator,
    "mi": round(found.mi, 5),
    "std": _rounded(std),
    "interval": [round(end, 5) for end in found.interval] if found.interval else None,
    "null_mean": _rounded(null.mean if null else None),
    "null_std": _rounded(null.std if null else None),
    "p_value": _rounded(null.p_value if null else None),
    "warnings": list(found.warnings),
    "settings": found.settings | details,
  }


def _rounded(value: float | None) -> float | None:
  return None if value is None else round(value, 5)


def geometry(before: np.ndarray, after: np.ndarray, labels: np.ndarray, seed: int) -> Row:
  """Returns the measurable terms of Theorem 5.1 for features, in total and by class.

  Args:
    before: Features of clean images, `[samples, d]`.
    after: Features of the released images, `[samples, d]`.
    labels: Integer labels `[samples]`.
    seed: Seed of the random directions.

  Returns:
    `before` and `after` with `theory.Terms`, `classes` with those of each class and the `spectrum`
    of its covariance (the largest eigenvalues, and the `trace` of all), `skipped` labels and a
    `note`; or only a `note` where no class has enough examples.
  """
  try:
    # The matrices of one class are small: threads would mostly wait for each other.
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
      clean = theory.bound(before, labels, seed=seed)
      # Clean and restored images have the same features before and after.
      same = np.array_equal(before, after)
      released = clean if same else theory.bound(after, labels, seed=seed)
  except UserError as error:
    return {"note": str(error)}
  return {
    "before": _terms(clean),
    "after": _terms(released),
    "classes": [
      {"label": a.label, "samples": a.samples, "before": _of_class(a), "after": _of_class(b)}
      for a, b in zip(clean.classes, released.classes, strict=True)
    ],
    "skipped": list(clean.skipped),
    "note": theory.NOTE,
  }


def _terms(found: theory.Terms) -> dict[str, float | None]:
  names = (field.name for field in dataclasses.fields(theory.Terms))
  return {name: _rounded(getattr(found, name)) for name in names}


def _of_class(found: theory.ClassTerms) -> Row:
  kept = found.spectrum[:_EIGENVALUES]
  spectrum = [float(f"{value:.4g}") for value in kept]
  return _terms(found) | {"spectrum": spectrum, "trace": float(f"{sum(found.spectrum):.4g}")}
