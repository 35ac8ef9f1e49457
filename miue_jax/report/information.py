"""Shows estimates of mutual information: for one experiment, and as columns of a comparison."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from miue_jax.report import figures, tables
from miue_jax.report.aggregate import CONTROLS, Row, Statistic, finite
from miue_jax.report.figures import Chart
from miue_jax.report.tables import MISSING, Table, number

_LAST = "features"  # layer that the classifier sees
_UNNAMED = "the estimator"  # Rows of older measurements do not name theirs.

_CELLS = {
  "images": lambda row: str(row.get("method")),
  "estimator": lambda row: named(row) if row.get("estimator") else MISSING,
  "mutual information (nats)": lambda row: number(row.get("mi"), 3),
  "std": lambda row: number(row.get("std"), 3),
  "95 % interval": lambda row: _interval(row.get("interval")),
  "shuffled pairs": lambda row: _null(row),
}


def _interval(ends: Any) -> str:
  if not isinstance(ends, list | tuple) or len(ends) != 2:
    return MISSING
  return f"{number(ends[0], 3)} to {number(ends[1], 3)}"


def _null(row: Row) -> str:
  if not finite(row.get("null_mean")):
    return MISSING
  return f"{row['null_mean']:.3f} ± {number(row.get('null_std'), 3)}"


def named(row: Row) -> str:
  """Returns the name of a row's estimator, and that of its layer unless it is the last one."""
  layer = row.get("layer") or _LAST
  return str(row.get("estimator") or _UNNAMED) + (f" of {layer}" if layer != _LAST else "")


def groups(rows: Iterable[Row]) -> dict[str, list[Row]]:
  """Groups rows by estimator and layer, in order of appearance."""
  found: dict[str, list[Row]] = {}
  for row in rows:
    found.setdefault(named(row), []).append(row)
  return found


def estimates(rows: Iterable[Row]) -> Table:
  """Returns a table with one line for each estimate."""
  return tables.build(rows, _CELLS, text=("images", "estimator"))


def table(measurement: Row) -> str:
  """Returns estimates between two files as Markdown for the terminal, with the warnings."""
  rows, used = measurement["rows"], measurement["settings"]
  columns, cells = estimates(rows)
  shown = tables.markdown(columns[1:], [line[1:] for line in cells])
  said = f"{used['samples']} of {used['of']} rows were used; the intervals cover the sampling error"
  return "\n".join((shown, "", f"{said}, not the bias.", *(f"- {line}" for line in warnings(rows))))


def warnings(rows: Iterable[Row]) -> list[str]:
  """Lists each warning of the estimators once, with the estimates that it is about."""
  found: dict[str, list[str]] = {}
  for row in rows:
    source = (named(row) if row.get("estimator") else "", row.get("method"))
    for sentence in row.get("warnings") or ():
      found.setdefault(str(sentence), []).append(", ".join(str(part) for part in source if part))
  return [f"{'; '.join(sources)}: {sentence}" for sentence, sources in found.items()]


def settings(measurement: Row) -> list[tuple[str, str]]:
  """Lists the settings that all rows share, then those of each estimator, as readable pairs.

  An estimator with the same settings for all layers is listed once.
  """
  found: dict[str, dict[str, Any]] = {}
  for name, (row, *_) in groups(measurement.get("rows") or ()).items():
    if isinstance(row.get("settings"), Mapping):
      found.setdefault(str(row.get("estimator") or _UNNAMED), {})[name] = row["settings"]
  separate: dict[str, Any] = {}
  for estimator, by_layer in found.items():
    first, *others = by_layer.values()
    alike = all(other == first for other in others)
    separate |= {estimator: first} if len(by_layer) > 1 and alike else by_layer
  return tables.flatten(measurement.get("settings") or {}) + tables.flatten(separate)


def disagreement(rows: Iterable[Row]) -> list[str]:
  """Returns a sentence about estimates that are not lower for a poison than for clean images."""
  against = []
  for name, members in groups(rows).items():
    values = {row.get("method"): row["mi"] for row in members if finite(row.get("mi"))}
    clean = values.get("clean", float("inf"))
    against += [
      f"{name} ({value:.3f} nats for {method}, {clean:.3f} for clean)"
      for method, value in values.items()
      if method not in CONTROLS and value >= clean
    ]
  said = (
    "Against the paper's thesis, that a poison works by lowering mutual information, it is not "
    f"below that of clean images according to {', '.join(against)}."
  )
  return [said] if against else []


def bars(rows: Sequence[Row]) -> str | None:
  """Draws the estimates of the last layer, one panel for each estimator."""
  known = [row for row in rows if finite(row.get("mi"))]
  last = [row for row in known if row.get("layer") == known[-1].get("layer")]
  return _draw(last, named, "method", "images", spread="columns")


def layers(rows: Sequence[Row]) -> str | None:
  """Draws mutual information over layers for each estimator; None for fewer than two layers."""
  known = [row for row in rows if finite(row.get("mi")) and row.get("layer")]
  several = len({row["layer"] for row in known}) > 1
  return _draw(known if several else [], lambda row: str(row.get("estimator")), "layer", "layer")


def _draw(
  rows: Sequence[Row], title: Callable[[Row], str], key: str, across: str, **look: Any
) -> str | None:
  ticks = list(dict.fromkeys(str(row.get(key)) for row in rows))
  found = figures.grouped(
    (title(row), str(row.get("method")), ticks.index(str(row.get(key))), _statistic(row))
    for row in rows
  )
  return figures.line_charts(
    [Chart(name, across, "MI (nats)", lines, ticks=ticks, **look) for name, lines in found.items()]
  )


def _statistic(row: Row) -> Statistic:
  return Statistic(row["mi"], row["std"] if finite(row.get("std")) else None, 1)


@dataclasses.dataclass(frozen=True)
class Estimates:
  """Estimates for the undefended victims of one network, for a table of methods.

  Attributes:
    rows: Estimates by method, then estimator; empty where nothing was measured.
    settings: Settings that all of them share.
  """

  rows: Mapping[str, Mapping[str, Row]]
  settings: Mapping[str, Any]

  @classmethod
  def gather(cls, lines: Iterable[Row], wanted: Mapping[str, Any]) -> "Estimates":
    """Collects the measurements of one network's victims.

    Args:
      lines: Measurements with the keys of results, `settings` and `rows`. The last one of each
        victim counts, unless its settings differ from those of the measurement of clean images.
      wanted: Values of the keys that select lines: dataset, victim, defence and seed.
    """
    kept = {
      line["method"]: line
      for line in lines
      if all(line.get(key) == value for key, value in wanted.items())
    }
    shared = kept.get("clean", next(iter(kept.values()), {})).get("settings", {})
    rows: dict[str, dict[str, Row]] = {}
    for name, line in kept.items():
      if line["settings"] == shared:
        label = {"method": f"{name} / {wanted['victim']}"}
        rows[name] = {named(row): {**row, **label} for row in line["rows"]}
    return cls(rows, shared)

  @property
  def estimators(self) -> list[str]:
    """Returns the names of the estimators, in order of appearance."""
    return list(dict.fromkeys(name for found in self.rows.values() for name in found))

  @property
  def warnings(self) -> list[str]:
    """Returns the warnings of the estimators, one sentence each."""
    return warnings(row for found in self.rows.values() for row in found.values())

  def value(self, method: str, estimator: str) -> float | None:
    """Returns mutual information in nats; None where it is unknown."""
    found = self.rows.get(method, {}).get(estimator, {}).get("mi")
    return found if finite(found) else None

  def gap(self, method: str, estimator: str) -> float | None:
    """Returns how much lower it is than for clean images, in nats; None for clean images."""
    clean, found = self.value("clean", estimator), self.value(method, estimator)
    return None if method == "clean" or clean is None or found is None else clean - found

  @property
  def columns(self) -> dict[str, Any]:
    """Returns functions from a method to its cell, by header, for `tables.build`."""
    found = {}
    for name in self.estimators:
      suffix = f", {name} (nats)" if len(self.estimators) > 1 else " (nats)"
      found[f"MI{suffix}"] = lambda method, name=name: number(self.value(method, name), 3)
      found[f"MI gap{suffix}"] = lambda method, name=name: number(self.gap(method, name), 3)
    return found

  def csv(self, method: str) -> dict[str, Any]:
    """Returns the columns of the CSV file for a method."""
    found = {}
    for estimator in self.estimators:
      name = estimator.replace(" ", "_")
      ends = self.rows.get(method, {}).get(estimator, {}).get("interval") or (None, None)
      found[f"mi_{name}"] = self.value(method, estimator)
      found[f"mi_{name}_low"], found[f"mi_{name}_high"] = ends
      found[f"mi_gap_{name}"] = self.gap(method, estimator)
    return found

  @property
  def used(self) -> list[str]:
    """Returns the names of the estimators with their settings."""
    found = []
    for name, rows in groups(row for line in self.rows.values() for row in line.values()).items():
      given = next((row["settings"] for row in rows if row.get("settings")), {})
      pairs = ", ".join(f"{key} {value}" for key, value in tables.flatten(given))
      found.append(f"{name} ({pairs})" if pairs else name)
    return found
