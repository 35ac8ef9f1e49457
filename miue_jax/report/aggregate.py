"""Groups rows of results over seeds: one `Condition` for each cell of a table."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

CONTROLS = ("clean", "random", "restored")
_RANK = {"clean": 0, "random": 1, "restored": 3}  # Poisons have rank 2.
IDENTITY = ("dataset", "victim", "defence", "method", "seed")
_ACCURACIES = ("test_accuracy", "peak_test_accuracy", "train_accuracy", "balanced_accuracy")
METRICS = (*_ACCURACIES, "auc", "seconds")

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Statistic:
  """Mean and sample standard deviation (n - 1) of `n` values; `std` is None when n is 1."""

  mean: float
  std: float | None
  n: int


@dataclasses.dataclass(frozen=True)
class Axes:
  """The cells of a comparison on one dataset.

  Attributes:
    dataset: Name of the dataset in the rows.
    methods: Lines of each table, "clean" among them.
    victims: Networks; each has a table.
    seeds: Seeds of the victims by defence; the defences are the columns.
  """

  dataset: str
  methods: tuple[str, ...]
  victims: tuple[str, ...]
  seeds: Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Condition:
  """All seeds of one victim with one defence on one version of the training images.

  Attributes:
    dataset, victim, defence: Setting; a victim without a defence has the defence "none".
    method: Poison or control that the victim is trained on.
    seeds: Number of rows, including those without a finite accuracy.
    wanted: Number of seeds that the table asks for.
    losses: Seed and reason of each training that failed.
    epochs: Distinct training lengths among the rows.
    metrics: A statistic for each name in `METRICS`, in the unit of the rows; None without values.
    gap: Mean test accuracy of the clean condition minus that of this one, in points.
    curves: Learning curves of the rows.
  """

  dataset: str
  victim: str
  defence: str
  method: str
  seeds: int
  wanted: int
  losses: tuple[tuple[int, str], ...]
  epochs: tuple[int, ...]
  metrics: dict[str, Statistic | None]
  gap: float | None
  curves: tuple[dict[str, list], ...]

  @property
  def setting(self) -> tuple[str, str, str]:
    """Returns dataset, victim and defence; conditions are compared only within one setting."""
    return self.dataset, self.victim, self.defence

  @property
  def accuracy(self) -> Statistic | None:
    """Returns the test accuracy after the last epoch, in percent."""
    return self.metrics["test_accuracy"]


def finite(value: Any) -> bool:
  """Returns True for a number that is neither NaN nor infinite."""
  return isinstance(value, int | float | np.number) and math.isfinite(value)


def statistic(values: Iterable[Any]) -> Statistic | None:
  """Returns mean and spread of the finite numbers among `values`; None when there are none."""
  kept = np.array([value for value in values if finite(value)], np.float64)
  if not kept.size:
    return None
  std = float(kept.std(ddof=1)) if kept.size > 1 else None
  return Statistic(float(kept.mean()), std, kept.size)


def methods_in_order(names: Iterable[str]) -> list[str]:
  """Returns distinct names: clean, random, the methods in the given order, restored."""
  return sorted(dict.fromkeys(names), key=lambda name: _RANK.get(name, 2))


def aggregate(
  rows: Iterable[Row], axes: Axes | None = None, lost: Iterable[Row] = ()
) -> list[Condition]:
  """Groups rows over seeds; of a victim that was trained again, only the last row counts.

  Args:
    rows: Trained victims.
    axes: Cells of a comparison: each gets a condition, and rows of other cells are ignored. None
      takes the cells from the rows: settings in order of appearance, clean first in each.
    lost: Trainings that failed, with `reason`; one that has a row does not count as lost.
  """
  found, failed = (
    {tuple(row[key] for key in IDENTITY): row for row in some} for some in (rows, lost)
  )
  if axes is None:
    settings = list(dict.fromkeys(key[:3] for key in found))
    keys = sorted(found, key=lambda key: (settings.index(key[:3]), _RANK.get(key[3], 2)))
  else:
    keys = [
      (axes.dataset, victim, defence, method, seed)
      for victim in axes.victims
      for defence, seeds in axes.seeds.items()
      for method in axes.methods
      for seed in seeds
    ]
  cells: dict[tuple, list[tuple]] = {}
  for key in keys:
    cells.setdefault(key[:4], []).append(key)
  return [_condition(cell, cells, found, failed) for cell in cells]


def _condition(
  cell: tuple, cells: dict[tuple, list[tuple]], found: dict[tuple, Row], failed: dict[tuple, Row]
) -> Condition:
  rows = [found[key] for key in cells[cell] if key in found]
  metrics = {name: statistic(row.get(name) for row in rows) for name in METRICS}
  keys = cells.get((*cell[:3], "clean"), ())
  clean = statistic(found[key].get("test_accuracy") for key in keys if key in found)
  accuracy = metrics["test_accuracy"]
  lost = [key for key in cells[cell] if key in failed and key not in found]
  return Condition(
    *cell,
    seeds=len(rows),
    wanted=len(cells[cell]),
    losses=tuple((key[-1], str(failed[key].get("reason"))) for key in lost),
    epochs=tuple(sorted({row["epochs"] for row in rows if finite(row.get("epochs"))})),
    metrics=metrics,
    gap=clean.mean - accuracy.mean if clean and accuracy and cell[3] != "clean" else None,
    curves=tuple(row.get("curve") or {} for row in rows),
  )


def mean_curve(curves: Iterable[dict[str, list]], key: str) -> list[tuple[float, Statistic]]:
  """Averages learning curves over seeds.

  Args:
    curves: Learning curves of any lengths; each has `epoch` and the values by name.
    key: Name of the values.

  Returns:
    Epochs in order, each with the statistic of the seeds that have a finite value there.
  """
  points: dict[int, list[float]] = {}
  for curve in curves:
    for epoch, value in zip(curve.get("epoch", ()), curve.get(key, ()), strict=False):
      points.setdefault(epoch, []).append(value)
  means = ((float(epoch), statistic(points[epoch])) for epoch in sorted(points))
  return [(epoch, mean) for epoch, mean in means if mean]
