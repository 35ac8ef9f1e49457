"""Shows the terms of Theorem 5.1, other explanations, and their course during generation."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from miue_jax.report import figures, tables
from miue_jax.report.aggregate import CONTROLS, Row, finite
from miue_jax.report.tables import MISSING, Table, number

CLASSES = 20  # classes shown for each poison; report.json holds all
_FEW = 4  # fewer epochs have no correlation worth a number
_TOGETHER = 0.5  # least rank correlation of two falling curves that are said to fall together

_TERMS = {
  "half ln det (nats)": ("half_log_det", 1),
  "intra-class cosine": ("intra_cosine", 3),
  "inter-class cosine": ("inter_cosine", 3),
  "effective rank": ("effective_rank", 1),
  "not normal (nats)": ("divergence", 3),
}
_TERM_COLUMNS = [(name, True) for name in _TERMS]
_COURSE = ("epoch", "mutual information (nats)", "half ln det (nats)")
_OTHERS = {
  "trained on": lambda row: str(row.get("method")),
  "perturbations separable (%)": lambda row: _separable(row.get("perturbations")),
  "released images separable (%)": lambda row: _separable(row.get("images")),
  "distance of class means, before to after": lambda row: _change(row.get("class_means") or {}, 2),
  "loss of the first epoch (nats)": lambda row: number(row["learning"].get("first_loss"), 3),
  "epochs until half of it": lambda row: number(row["learning"].get("epochs_to_half"), 1),
}


def _separable(found: Any) -> str:
  if not isinstance(found, Mapping) or not finite(found.get("test_accuracy")):
    return MISSING
  train = number(found.get("train_accuracy"), 1)
  return f"{found['test_accuracy']:.1f} / {train} ({number(found.get('chance'), 1)})"


def _change(ends: Row, digits: int) -> str:
  return f"{number(ends.get('before'), digits)} to {number(ends.get('after'), digits)}"


def terms(rows: Sequence[Row]) -> Table:
  """Returns a table of the features of each condition before and after release."""
  cells = []
  for row in rows:
    shown = {"clean images": row.get("before"), "released images": row.get("after")}
    if row.get("before") == row.get("after"):
      shown = {"clean images": row.get("after")}
    for name, values in shown.items():
      if isinstance(values, Mapping):
        numbers = (number(values.get(key), digits) for key, digits in _TERMS.values())
        cells.append([str(row.get("method")), name, *numbers])
  return [("trained on", False), ("features of", False), *_TERM_COLUMNS], cells


def classes(rows: Sequence[Row]) -> Table:
  """Returns a table of the classes of each poison before and after release."""
  cells = []
  for row in rows:
    shown = () if row.get("method") in CONTROLS else (row.get("classes") or ())[:CLASSES]
    for one in shown:
      changes = (
        _change({moment: one[moment].get(key) for moment in ("before", "after")}, digits)
        for key, digits in _TERMS.values()
      )
      cells.append([str(row.get("method")), str(one["label"]), str(one["samples"]), *changes])
  return [("trained on", False), ("class", True), ("images", True), *_TERM_COLUMNS], cells


def others(rows: Sequence[Row]) -> Table:
  """Returns a table of other explanations; it has no cells for older measurements."""
  return tables.build((row for row in rows if "learning" in row), _OTHERS, text=("trained on",))


def spectra(rows: Sequence[Row]) -> str | None:
  """Draws eigenvalues by rank, means over classes; None where they were not measured."""
  points = []
  for row in rows:
    measured = [one for one in row.get("classes") or () if "spectrum" in one.get("after", ())]
    for moment in ("before", "after"):
      by_rank = zip(*(one[moment]["spectrum"] for one in measured), strict=True)
      means = [sum(values) / len(values) for values in by_rank]
      # A direction in which a class does not vary has no logarithm.
      points += [(moment, str(row.get("method")), i, m) for i, m in enumerate(means, 1) if m > 0]
  lines = {"before": {}} | figures.grouped(points)
  if "after" not in lines:
    return None
  titles = ("Covariance spectra of features", "rank", "eigenvalue")
  chart = figures.Chart(*titles, lines["after"], dashed=lines["before"], scale="log")
  return figures.line_charts([chart])


def sentences(rows: Sequence[Row]) -> list[str]:
  """Says whether the covariance term is smaller for the poison, and what was not measured."""
  values = {
    row.get("method"): row["after"]["half_log_det"]
    for row in rows
    if isinstance(row.get("after"), Mapping) and finite(row["after"].get("half_log_det"))
  }
  clean = values.pop("clean", None)
  found = [
    "By Theorem 5.1 a poison lowers the bound where it makes each class of its features compact: "
    f"half ln det is {value:.1f} nats for the released images of {method} and {clean:.1f} for "
    f"clean ones, so this {'agrees' if round(value, 1) < round(clean, 1) else 'does not agree'}."
    for method, value in values.items()
    if clean is not None and method not in CONTROLS
  ]
  for row in rows:
    for part in (row, row.get("perturbations")):
      if isinstance(part, Mapping) and not {"after", "test_accuracy"} & set(part):
        found.append(f"Not measured for {row.get('method')}: {part.get('note')}")
  return found


def course(history: Any) -> dict[str, Any] | None:
  """Shows information and the covariance term while the poison was made.

  Args:
    history: History of a poison's manifest: `observed_epoch`, `information` (nats) and
      `half_log_det` (nats), lists of one length.

  Returns:
    `drawing` (None for one epoch), `table` and `sentence`; None for any other history.
  """
  history = history if isinstance(history, Mapping) else {}
  names = ("observed_epoch", "information", "half_log_det")
  columns: list[Any] = [history.get(name) for name in names]
  if not all(isinstance(column, list) and column for column in columns):
    return None
  rows = list(itertools.zip_longest(*columns))
  if not all(finite(value) for row in rows for value in row):
    return None
  lines = figures.grouped(
    (title, "poison", epoch, value)
    for epoch, *values in rows
    for title, value in zip(_COURSE[1:], values, strict=True)
  )
  charts = [
    figures.Chart(title, "epoch of generation", "nats", line, scale="free")
    for title, line in lines.items()
  ]
  cells = [[str(n), number(mi, 3), number(term, 1)] for n, mi, term in rows]
  return {
    "drawing": figures.line_charts(charts) if len(rows) > 1 else None,
    "table": ([(name, True) for name in _COURSE], cells),
    "sentence": _course_sentence(*columns),
  }


def _course_sentence(
  epochs: Sequence[int], information: Sequence[float], term: Sequence[float]
) -> str:
  said = (
    f"From epoch {epochs[0]} to epoch {epochs[-1]}, mutual information goes from "
    f"{information[0]:.3f} to {information[-1]:.3f} nats and half ln det from {term[0]:.1f} to "
    f"{term[-1]:.1f}. "
  )
  count, values = len(epochs), np.array([information, term])
  if count < _FEW:
    return f"{said}That is too little to say whether they fall together (n = {count})."
  if (np.ptp(values, axis=1) == 0).any():
    return f"{said}One of them never changes, so they do not fall together (n = {count} epochs)."
  rho = float(stats.spearmanr(*values).statistic)
  fall = (values[:, -1] < values[:, 0]).all() and rho >= _TOGETHER
  return (
    f"{said}They {'fall' if fall else 'do not fall'} together (Spearman's rank correlation "
    f"{rho:.2f}, n = {count} epochs; epochs depend on each other, so this is no test of "
    "significance)."
  )
