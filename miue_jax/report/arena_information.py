"""The arena's measurements -> mutual information beside the accuracies."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from miue_jax.report import information, tables
from miue_jax.report.aggregate import Row, finite
from miue_jax.report.tables import Columns

Estimates = Mapping[str, Mapping[str, Any]]  # by estimator

_CLEAN = "clean"


@dataclasses.dataclass(frozen=True)
class Measured:
  """What was measured of the victims of one network.

  Attributes:
    estimators: in the order of the columns; none where nothing was measured.
    lines: by method, the estimates; a method that was not measured has none.
    legend: how to read the columns; empty without columns.
    warnings: of the estimators, one sentence each.
  """

  estimators: tuple[str, ...] = ()
  lines: Mapping[str, Estimates] = dataclasses.field(default_factory=dict)
  legend: str = ""
  warnings: tuple[str, ...] = ()

  def value(self, method: str, estimator: str) -> float | None:
    """Mutual information in nats; None where it is not known."""
    found = self.lines.get(method, {}).get(estimator, {}).get("mi")
    return found if finite(found) else None

  def gap(self, method: str, estimator: str) -> float | None:
    """How much lower it is than on clean images, in nats; None for those and where not known."""
    clean, own = self.value(_CLEAN, estimator), self.value(method, estimator)
    return None if method == _CLEAN or clean is None or own is None else clean - own

  @property
  def columns(self) -> Columns:
    """Two for each estimator, which is named where there are several."""
    names = [f", {name}" if len(self.estimators) > 1 else "" for name in self.estimators]
    return [(f"{what}{name} (nats)", True) for name in names for what in ("MI", "MI gap")]

  def cells(self, method: str) -> list[str]:
    """A method's values, in the order of `columns`."""
    return [
      tables.number(value, 3)
      for name in self.estimators
      for value in (self.value(method, name), self.gap(method, name))
    ]


def gather(lines: Iterable[Row], dataset: str, victim: str, seed: int) -> Measured:
  """Sorts the measurements of one network's victims.

  Args:
    lines: keyed as rows of results, with `settings` and `rows` as `report.write` takes them. Of two
      for the same victim the last one counts; one that was made by other settings than that of
      clean images counts as not made.
    dataset: its name in the lines.
    victim: the network.
    seed: of the victims, which have no defence.
  """
  wanted = {"dataset": dataset, "victim": victim, "defence": "none", "seed": seed}
  kept = {
    line["method"]: line
    for line in lines
    if all(line.get(key) == value for key, value in wanted.items())
  }
  if not kept:
    return Measured()
  settings = kept.get(_CLEAN, next(iter(kept.values())))["settings"]
  kept = {name: line for name, line in kept.items() if line["settings"] == settings}
  estimates = {
    name: {information.named(row): row for row in line["rows"]} for name, line in kept.items()
  }
  estimators = tuple(dict.fromkeys(name for found in estimates.values() for name in found))
  sources = [
    row | {"method": f"{name} / {victim}"}
    for name, found in estimates.items()
    for row in found.values()
  ]
  return Measured(
    estimators, estimates, _legend(settings, sources), tuple(information.warnings(sources))
  )


def _legend(settings: Mapping[str, Any], rows: list[Mapping[str, Any]]) -> str:
  used = []
  for name, members in information.groups(rows).items():
    own = next((row["settings"] for row in members if row.get("settings")), {})
    pairs = ", ".join(f"{key} {value}" for key, value in tables.flatten(own))
    used.append(f"{name} ({pairs})" if pairs else name)
  return (
    "MI: mutual information between the features of a training image before and after release, "
    "those of the undefended victim that learned from the released images; "
    f"{settings.get('samples')} images, seed {settings.get('seed')}; by {'; '.join(used)}. "
    "MI gap: that of clean images, which are released as they are, minus this one. Finite values "
    "are a property of these settings: compare them, and do not read them as absolute."
  )
