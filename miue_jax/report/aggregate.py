"""Rows -> one `Condition` per trained condition: means and spreads over seeds."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from miue_jax.settings.errors import UserError

CONTROLS = ("clean", "random", "restored")
IDENTITY = ("dataset", "victim", "defence", "method", "seed")
METRICS = (
  "test_accuracy",
  "peak_test_accuracy",
  "train_accuracy",
  "balanced_accuracy",
  "auc",
  "seconds",
)

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Statistic:
  """Mean and sample standard deviation (n - 1) of `n` values; `std` is None when n is 1."""

  mean: float
  std: float | None
  n: int


@dataclasses.dataclass(frozen=True)
class Condition:
  """Every seed of one victim, under one defence, on one version of the training images.

  Attributes:
    seeds: number of rows, also those without a finite accuracy.
    epochs: the distinct training lengths among the rows.
    metrics: one entry for each of `METRICS`, in the row's units; None where no row has a value.
    fall: mean test accuracy of the clean condition minus that of this one, in points.
    curves: the rows' curves.
  """

  dataset: str
  victim: str
  defence: str
  method: str
  seeds: int
  epochs: tuple[int, ...]
  metrics: dict[str, Statistic | None]
  fall: float | None
  curves: tuple[dict[str, list], ...]

  @property
  def setting(self) -> tuple[str, str, str]:
    """What two conditions must share to be compared."""
    return self.dataset, self.victim, self.defence


def finite(value: Any) -> bool:
  """True for a number that is neither NaN nor infinite."""
  return isinstance(value, int | float | np.number) and math.isfinite(value)


def statistic(values: Iterable[Any]) -> Statistic | None:
  """Mean and spread of the finite numbers among `values`; None when there are none."""
  kept = np.array([value for value in values if finite(value)], np.float64)
  if not kept.size:
    return None
  std = float(kept.std(ddof=1)) if kept.size > 1 else None
  return Statistic(float(kept.mean()), std, kept.size)


def latest(rows: list[Row]) -> list[Row]:
  """One row for each identity: a victim trained again replaces its earlier row, not adds a seed.

  Raises:
    UserError: a row lacks one of the keys that identify it.
  """
  kept = {}
  for number, row in enumerate(rows, 1):
    missing = [key for key in IDENTITY if key not in row]
    if missing:
      raise UserError(
        f"Row {number} of the results has no {missing[0]!r}; delete that row and evaluate again."
      )
    kept[tuple(row[key] for key in IDENTITY)] = row
  return list(kept.values())


def methods_in_order(names: Iterable[str]) -> list[str]:
  """Distinct names: clean, random, the methods as they come, restored."""
  rank = {"clean": 0, "random": 1, "restored": 3}
  return sorted(dict.fromkeys(names), key=lambda name: rank.get(name, 2))


def aggregate(rows: list[Row]) -> list[Condition]:
  """Groups rows over seeds; settings stay in order of appearance, clean first in each.

  Raises:
    UserError: a row lacks one of the keys that identify it.
  """
  settings: dict[tuple[str, ...], dict[str, list[Row]]] = {}
  for row in latest(rows):
    setting = row["dataset"], row["victim"], row["defence"]
    settings.setdefault(setting, {}).setdefault(row["method"], []).append(row)
  conditions = []
  for setting, groups in settings.items():
    clean = statistic(row.get("test_accuracy") for row in groups.get("clean", ()))
    for method in methods_in_order(groups):
      conditions.append(_condition(setting, method, groups[method], clean))
  return conditions


def _condition(
  setting: tuple[str, ...], method: str, rows: list[Row], clean: Statistic | None
) -> Condition:
  metrics = {name: statistic(row.get(name) for row in rows) for name in METRICS}
  accuracy = metrics["test_accuracy"]
  return Condition(
    *setting,
    method=method,
    seeds=len(rows),
    epochs=tuple(sorted({row["epochs"] for row in rows if finite(row.get("epochs"))})),
    metrics=metrics,
    fall=clean.mean - accuracy.mean if clean and accuracy and method != "clean" else None,
    curves=tuple(row.get("curve") or {} for row in rows),
  )


def mean_curve(
  curves: Iterable[dict[str, list]], key: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Averages curves of any lengths, at each epoch over the seeds that have a finite value there.

  Returns:
    Epochs, means and sample standard deviations (0 where only one seed is left), each `[epochs]`.
  """
  points: dict[int, list[float]] = {}
  for curve in curves:
    for epoch, value in zip(curve.get("epoch", ()), curve.get(key, ()), strict=False):
      if finite(value):
        points.setdefault(epoch, []).append(value)
  epochs = sorted(points)
  statistics = [statistic(points[epoch]) for epoch in epochs]
  return (
    np.array(epochs, np.float64),
    np.array([s.mean for s in statistics], np.float64),
    np.array([s.std or 0.0 for s in statistics], np.float64),
  )
