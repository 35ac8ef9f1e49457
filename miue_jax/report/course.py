"""Information and the covariance term while a poison was made: a drawing, a table, a sentence."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from miue_jax.report import figures
from miue_jax.report.aggregate import finite
from miue_jax.report.tables import Columns, number

TITLE = "While the poison was made"
LEGEND = (
  "While the poison was made: histogram information between the source model's features of clean "
  "and of poisoned images, and the covariance term of Theorem 5.1 (half ln det) of the poisoned "
  "ones, which also moves with the scale of the features as the model is trained."
)

_COLUMNS = (
  ("epoch", True),
  ("mutual information (nats)", True),
  ("half ln det (nats)", True),
)
_FEW = 4  # fewer epochs have no correlation worth a number
_TOGETHER = 0.5  # rank correlation from which two falling curves fall together


@dataclasses.dataclass(frozen=True)
class Course:
  """What was observed after some epochs of generation.

  Attributes:
    epochs: counted from 1.
    information: histogram estimate between the source model's features of clean and of poisoned
      images, nats.
    half_log_det: covariance term of Theorem 5.1 of the poisoned ones, nats.
  """

  epochs: tuple[int, ...]
  information: tuple[float, ...]
  half_log_det: tuple[float, ...]


def observed(history: Any) -> Course | None:
  """Reads the history of a poison's manifest; None where it holds no observation."""
  if not isinstance(history, Mapping):
    return None
  columns = [history.get(name) for name in ("observed_epoch", "information", "half_log_det")]
  if not all(isinstance(column, list) and column for column in columns):
    return None
  if len({len(column) for column in columns}) > 1:
    return None
  if not all(finite(value) for column in columns for value in column):
    return None
  return Course(*map(tuple, columns))


def curves(course: Course | None) -> str | None:
  """Both over epochs as an `<svg>`; None for fewer than two epochs."""
  if course is None:
    return None
  panels = {_COLUMNS[1][0]: course.information, _COLUMNS[2][0]: course.half_log_det}
  return figures.course(course.epochs, panels, "course", _alt(course))


def _alt(course: Course) -> str:
  return (
    f"Over epochs {course.epochs[0]} to {course.epochs[-1]} mutual information goes from "
    f"{course.information[0]:.3f} to {course.information[-1]:.3f} nats and half ln det from "
    f"{course.half_log_det[0]:.1f} to {course.half_log_det[-1]:.1f}."
  )


def table(course: Course) -> tuple[Columns, list[list[str]]]:
  """Columns and a row of strings for each epoch."""
  rows = zip(course.epochs, course.information, course.half_log_det, strict=True)
  return _COLUMNS, [[str(n), number(mi, 3), number(term, 1)] for n, mi, term in rows]


def sentence(course: Course | None) -> str | None:
  """Whether both fall together; None where nothing was observed."""
  if course is None:
    return None
  return f"{_alt(course)} {_judgement(course)}"


def _judgement(course: Course) -> str:
  count = len(course.epochs)
  if count < _FEW:
    return f"That is too little to say whether they fall together (n = {count})."
  values = np.array([course.information, course.half_log_det])
  if (np.ptp(values, axis=1) == 0).any():
    return f"One of them never changes, so they do not fall together (n = {count} epochs)."
  rho = float(stats.spearmanr(*values).statistic)
  fall = (values[:, -1] < values[:, 0]).all() and rho >= _TOGETHER
  return (
    f"They {'fall' if fall else 'do not fall'} together (Spearman's rank correlation {rho:.2f}, "
    f"n = {count} epochs; epochs follow one another, so this is no test of significance)."
  )
