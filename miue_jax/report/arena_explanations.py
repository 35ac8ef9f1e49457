"""Which explanation goes with the accuracy gap: correlations that were computed -> tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from miue_jax.report import tables

Explanations = Sequence[Mapping[str, Any]]

COLUMNS = (
  ("explanation", False),
  ("rank correlation", True),
  ("p-value", True),
  ("poisons", False),
  ("what it says", False),
)
LEGEND = (
  "Spearman's rank correlation of each explanation with the accuracy gap of undefended victims, "
  "over the poisons below; controls do not count. p-value: two-sided, by permuting the gap; not "
  "corrected for the number of explanations: of twenty that explain nothing, one is expected below "
  "0.05."
)
VALUES_LEGEND = (
  "What is correlated; a poison counts where both values are known. Accuracy gap and loss: means "
  "over seeds; all else: of the victim that was measured. MI gap and fall of half ln det (the "
  "covariance term of Theorem 5.1): below the victim of clean images. Distance of class means: of "
  "the features of released images, in units of the spread inside a class, mean over pairs of "
  "classes. Separable: held-out accuracy of a linear classifier. Training loss: a fast learner has "
  "a small one."
)


def correlations(found: Explanations) -> list[list[str]]:
  """One row of strings for each explanation, in the order of `COLUMNS`."""
  return [
    [
      one["explanation"],
      tables.number(one["rho"], 2),
      _p_value(one["p_value"]),
      f"{one['n']}: {', '.join(one['rows'])}",
      one["sentence"],
    ]
    for one in found
  ]


def _p_value(value: float | None) -> str:
  return "<0.001" if value is not None and value < 0.0005 else tables.number(value, 3)


def values(found: Explanations) -> tuple[tables.Columns, list[list[str]]]:
  """Columns and cells: one line for each poison, with its gap and every explanation."""
  columns = [
    ("poison", False),
    ("accuracy gap (points)", True),
    *((one["explanation"], True) for one in found),
  ]
  cells = [
    [name, tables.number(gap, 1), *(_short(one["values"][name]) for one in found)]
    for name, gap in found[0]["gaps"].items()
  ]
  return columns, cells


def _short(value: float | None) -> str:
  if value is None:
    return tables.MISSING
  return tables.number(value, 1 if abs(value) >= 10 else 3)
