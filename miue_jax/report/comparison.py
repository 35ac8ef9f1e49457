"""Builds the report of a comparison: methods x defences for each victim on each dataset."""

import dataclasses
import functools
import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from miue_jax.report import charts, figures, pages, tables
from miue_jax.report.aggregate import CONTROLS, Axes, Condition, Row, aggregate, statistic
from miue_jax.report.information import Estimates
from miue_jax.report.tables import MISSING, Strong, Table, number, spread

NOT_YET = "not yet"

_FACTS = {
  "method": lambda fact: fact["method"],
  "budget": lambda fact: str(fact["budget"]),
  "time (s)": lambda fact: spread(statistic(fact["seconds"])),
  "memory (MB)": lambda fact: _megabytes(fact.get("peak_memory_bytes")),
  "largest change": lambda fact: f"{fact['max_delta_255ths']}/255",
  "PSNR (dB)": lambda fact: number(fact["psnr_db"], 1),
  "SSIM": lambda fact: number(fact["ssim"], 3),
}
_CORRELATIONS = {
  "explanation": lambda one: one["explanation"],
  "rank correlation": lambda one: number(one["rho"], 2),
  "p-value": lambda one: _p_value(one["p_value"]),
  "poisons": lambda one: f"{one['n']}: {', '.join(one['rows'])}",
  "what it says": lambda one: one["sentence"],
}


def _megabytes(count: float | None) -> str:
  return MISSING if count is None else f"{count / 1e6:,.0f}"


def _p_value(value: float | None) -> str:
  return "<0.001" if value is not None and value < 0.0005 else number(value, 3)


@functools.cache
def published(name: str) -> dict[tuple[str, str], float]:
  """Reads published accuracies by method and defence, percent; none for an empty name."""
  text = importlib.resources.files("miue_jax.report").joinpath("published.txt").read_text()
  (source, *defences), *lines = (x.split() for x in text.splitlines() if not x.startswith("#"))
  return {
    (method, defence): float(value)
    for method, *values in lines
    for defence, value in zip(defences, values, strict=True)
    if value != "-" and name == source
  }


@dataclasses.dataclass(frozen=True)
class Grid:
  """The table of one victim: methods x defences.

  Attributes:
    results: Results on the dataset.
    victim: Network.
    lines: Conditions by method, then defence, in the order of the axes.
    estimates: Mutual information of the undefended victims.
    explanations: Explanations of the accuracy gap.
  """

  results: "Results"
  victim: str
  lines: Mapping[str, Mapping[str, Condition]]
  estimates: Estimates
  explanations: Sequence[Mapping[str, Any]]

  @property
  def defences(self) -> list[str]:
    """Returns the columns of the table."""
    return list(self.results.axes.seeds)

  @functools.cached_property
  def strongest(self) -> set[tuple[str, str]]:
    """Returns method and defence of the strongest poisons of each defence, controls excluded."""
    means = {
      (c.method, c.defence): c.accuracy.mean
      for line in self.lines.values()
      for c in line.values()
      if c.accuracy and c.method not in CONTROLS
    }
    least = {d: min(mean for key, mean in means.items() if key[1] == d) for _, d in means}
    return {key for key, mean in means.items() if mean == least[key[1]]}

  def cell(self, method: str, defence: str) -> str:
    """Returns the accuracies of a cell, or what is lost or not trained yet."""
    condition = self.lines.get(method, {}).get(defence)
    if condition is None:
      return MISSING
    parts, wanted, lost = [], condition.wanted, len(condition.losses)
    if condition.accuracy:
      peak = condition.metrics["peak_test_accuracy"]
      parts.append(f"{spread(condition.accuracy)} / {spread(peak)}")
    if lost:
      parts.append("lost" if wanted == 1 else f"{lost} of {wanted} lost")
    if waiting := wanted - condition.seeds - lost:
      parts.append(NOT_YET if waiting == wanted else f"{waiting} of {wanted} {NOT_YET}")
    text = ", ".join(parts)
    if known := published(self.results.published).get((method, defence)):
      text += f" [{known:.2f}]"
    return Strong(text) if (method, defence) in self.strongest else text

  def gap(self, method: str, defence: str) -> str:
    """Returns the accuracy gap of a cell, in points."""
    return number(self.lines[method][defence].gap, 1)

  @property
  def accuracies(self) -> Table:
    """Returns the accuracies of methods x defences."""
    return self._table("method", self.cell, {})

  @property
  def measured(self) -> Table:
    """Returns accuracies, and mutual information where it was measured."""
    return self._table("method", self.cell, self.estimates.columns)

  @property
  def gaps(self) -> Table:
    """Returns accuracy gaps, and mutual information where it was measured."""
    return self._table("gap", self.gap, self.estimates.columns)

  def _table(
    self, header: str, cell: Callable[[str, str], str], more: Mapping[str, Callable[[str], str]]
  ) -> Table:
    cells = {name: lambda method, name=name: cell(method, name) for name in self.defences}
    return tables.build(self.lines, {header: str, **cells, **more}, text=(header,))

  @functools.cached_property
  def heat_map(self) -> str | None:
    """Draws the mean accuracies."""
    means = [
      [c.accuracy.mean if c.accuracy else float("nan") for c in line.values()]
      for line in self.lines.values()
    ]
    methods, defences = list(self.lines), self.defences
    framed = [(methods.index(m), defences.index(d)) for m, d in self.strongest]
    return figures.heat_map(means, methods, defences, sorted(framed))

  @functools.cached_property
  def curves(self) -> str | None:
    """Draws the accuracy over everything that was varied."""
    return figures.line_charts(charts.of_victim(self.lines, self.results.facts))

  @property
  def correlations(self) -> Table | None:
    """Returns the correlation of each explanation with the accuracy gap; None without any."""
    text = ("explanation", "poisons", "what it says")
    return tables.build(self.explanations, _CORRELATIONS, text) if self.explanations else None

  @property
  def explained(self) -> Table:
    """Returns the accuracy gap and all explanations of each poison."""
    names = [one["explanation"] for one in self.explanations]
    cells = []
    for poison, gap in self.explanations[0]["gaps"].items():
      values = (one["values"][poison] for one in self.explanations)
      shown = (number(value, 1 if abs(value or 0) >= 10 else 3) for value in values)
      cells.append([poison, number(gap, 1), *shown])
    return [("poison", False), *((n, True) for n in ("accuracy gap (points)", *names))], cells

  def csv(self) -> list[dict[str, Any]]:
    """Returns a line of the CSV file for each cell."""
    return [self._csv(c) for line in self.lines.values() for c in line.values()]

  def _csv(self, c: Condition) -> dict[str, Any]:
    fact, key = self.results.facts.get(c.method, {}), (c.method, c.defence)
    seconds = statistic(fact.get("seconds", ()))
    found: dict[str, Any] = {"dataset": c.dataset, "victim": c.victim, "defence": c.defence}
    found |= {"method": c.method, "seeds": c.seeds, "seeds_wanted": c.wanted}
    for name in ("test_accuracy", "peak_test_accuracy"):
      value = c.metrics[name]
      found |= {name: value and value.mean, f"{name}_std": value and value.std}
    found["gap"] = c.gap
    found["strongest"] = int(key in self.strongest)
    found["published"] = published(self.results.published).get(key)
    found["lost"] = "; ".join(f"seed {seed}: {reason}" for seed, reason in c.losses)
    found |= self.estimates.csv(c.method) if c.defence == "none" else {}
    found["generation_seconds"] = seconds and seconds.mean
    names = "peak_memory_bytes", "max_delta_255ths", "budget", "psnr_db", "ssim"
    return found | {name: fact.get(name) for name in names}


@dataclasses.dataclass(frozen=True)
class Results:
  """The results of a comparison on one dataset that are known so far.

  Attributes:
    axes: Cells of the tables; rows of other cells are ignored.
    rows: Trained victims.
    lost: Trainings that failed, with `reason`; one that has a row does not count as lost.
    measurements: Measurements of undefended victims of the first seed, with the keys of rows,
      `settings` and `rows`.
    explanations: By victim, for each explanation of the accuracy gap `explanation`, `rho`,
      `p_value`, `n`, `rows` (names of the poisons used), `sentence`, and by poison `values` and
      `gaps` (points).
    facts: By method, cost and size of its poisons: `seconds` (a list), `peak_memory_bytes`,
      `max_delta_255ths`, `beyond` (True if larger than the budget of the others), `budget`,
      `psnr_db`, `ssim`, and `settings` as `charts.of_victim` takes them.
    published: Name of a table of published accuracies, or empty.
  """

  axes: Axes
  rows: Sequence[Row]
  lost: Sequence[Row] = ()
  measurements: Sequence[Row] = ()
  explanations: Mapping[str, Sequence[Mapping[str, Any]]] = dataclasses.field(default_factory=dict)
  facts: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
  published: str = ""

  @functools.cached_property
  def grids(self) -> list[Grid]:
    """Returns the tables of the victims."""
    lines: dict[str, dict[str, dict[str, Condition]]] = {}
    for c in aggregate(self.rows, self.axes, self.lost):
      lines.setdefault(c.victim, {}).setdefault(c.method, {})[c.defence] = c
    seed = next(iter(self.axes.seeds.get("none", ())), None)
    wanted = {"dataset": self.axes.dataset, "defence": "none", "seed": seed}
    grids = []
    for victim, line in lines.items():
      estimates = Estimates.gather(self.measurements, wanted | {"victim": victim})
      grids.append(Grid(self, victim, line, estimates, self.explanations.get(victim, ())))
    return grids

  @functools.cached_property
  def over_victims(self) -> dict[str, Any] | None:
    """Returns a drawing and tables over the victims; None for fewer than two."""
    found = charts.over_victims({g.victim: (g.lines, g.estimates) for g in self.grids})
    if not found:
      return None
    shown = [(charts.table(chart), f"{chart.title}: {chart.up}") for chart in found]
    return {"drawing": figures.line_charts(found), "tables": shown}

  @property
  def poisons(self) -> Table:
    """Returns cost and size of each poison."""
    known = [{"method": m, **self.facts[m]} for m in self.axes.methods if self.facts.get(m)]
    return tables.build(known, _FACTS, text=("method", "budget"))

  @property
  def notes(self) -> list[str]:
    """Returns sentences about lost cells, larger budgets and warnings of the estimators."""
    cells: dict[str, list[str]] = {}
    for c in (c for grid in self.grids for line in grid.lines.values() for c in line.values()):
      for seed, reason in c.losses:
        cells.setdefault(reason, []).append(f"{c.method} / {c.victim} / {c.defence} / {seed}")
    found = [
      f"Lost (method / victim / defence / seed): {', '.join(where)}: {reason}"
      for reason, where in cells.items()
    ]
    beyond = [
      f"{name} ({fact['max_delta_255ths']}/255; budget: {fact['budget']})"
      for name, fact in self.facts.items()
      if fact.get("beyond")
    ]
    if beyond:
      found.append(f"Poisons that exceed the others' epsilon: {', '.join(beyond)}.")
    return found + [line for grid in self.grids for line in grid.estimates.warnings]


@dataclasses.dataclass(frozen=True)
class Comparison:
  """The results of a comparison on all datasets.

  The report depends on these values only, not on the time or the machine.

  Attributes:
    results: Results on each dataset.
    config: Nested settings.
    command: Command line that started the comparison.
  """

  results: Sequence[Results]
  config: Mapping[str, Any]
  command: str

  @functools.cached_property
  def files(self) -> dict[str, str]:
    """Returns the texts of `compare.html`, `compare.md`, `compare.csv` and `compare.tex`."""
    *names, last = (found.axes.dataset for found in self.results)
    listed = f"{', '.join(names)} and {last}" if names else last
    values = {
      "title": f"Which methods make {listed} unlearnable, and against which defences?",
      "side_by_side": self.side_by_side if names else None,
      "tables": self.results,
      "command": self.command,
      "settings": tables.sections(self.config),
    }
    lines = [line for found in self.results for grid in found.grids for line in grid.csv()]
    return {
      "compare.csv": tables.to_csv(lines),
      "compare.tex": pages.render("latex", "latex", values),
      # The terminal shows this file; the page has the settings.
      "compare.md": pages.render("comparison", "markdown", values | {"settings": []}),
      "compare.html": pages.render("comparison", "html", values),
    }

  @property
  def side_by_side(self) -> Table:
    """Returns all methods without a defence, on all datasets and victims."""
    grids = [grid for found in self.results for grid in found.grids]
    names = (f"{grid.results.axes.dataset}, {grid.victim}" for grid in grids)
    columns = [("method", False), *((name, True) for name in names)]
    methods = dict.fromkeys(method for grid in grids for method in grid.lines)
    return columns, [[m, *(grid.cell(m, "none") for grid in grids)] for m in methods]
