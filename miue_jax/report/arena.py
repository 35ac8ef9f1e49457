"""The arena's rows -> what all views of its table say."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from miue_jax.report import arena_curves, arena_explanations, arena_information, tables
from miue_jax.report.aggregate import (
  CONTROLS,
  IDENTITY,
  Condition,
  Row,
  Statistic,
  aggregate,
  finite,
  statistic,
)
from miue_jax.report.arena_figures import Chart
from miue_jax.report.published import PUBLISHED, SOURCE

NOT_YET = "not yet"

ACCURACY_LEGEND = (
  "Clean test accuracy in percent, mean ± sample standard deviation over seeds: after the last "
  "epoch / at the best epoch, where somebody with clean images to validate on would stop."
)
LEGEND = f"{ACCURACY_LEGEND} Bold: the strongest poison of a column."
GAP_LEGEND = (
  "Accuracy gap: points that the last epoch's accuracy lies below that of the same victim, under "
  "the same defence, on clean images."
)
FACT_LEGEND = (
  "Time: to make the poison, mean over poisons. Memory: the largest resident memory of the whole "
  "process meanwhile. Largest change, PSNR and SSIM: of the stored images, against the clean ones."
)
FACT_COLUMNS = (
  ("method", False),
  ("time (s)", True),
  ("memory (MB)", True),
  ("largest change", True),
  ("budget", False),
  ("PSNR (dB)", True),
  ("SSIM", True),
)


@dataclasses.dataclass(frozen=True)
class Axes:
  """What the table is to hold.

  Attributes:
    dataset: its name in the rows.
    methods: lines, "clean" among them.
    victims: one table each.
    seeds: by defence, which are the columns.
  """

  dataset: str
  methods: tuple[str, ...]
  victims: tuple[str, ...]
  seeds: Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Entry:
  """One method under one defence.

  Attributes:
    condition: its rows over seeds; None where there is no row.
    wanted: number of seeds.
    losses: for each seed that failed, why.
    published: percent; None where nobody published it, or for other data.
    strongest: whether no poison of the column leaves less accuracy.
  """

  condition: Condition | None
  wanted: int
  losses: tuple[tuple[int, str], ...]
  published: float | None
  strongest: bool = False

  @property
  def last(self) -> Statistic | None:
    """Accuracy after the last epoch."""
    return self.condition and self.condition.metrics["test_accuracy"]

  @property
  def peak(self) -> Statistic | None:
    """Accuracy at the best epoch."""
    return self.condition and self.condition.metrics["peak_test_accuracy"]

  @property
  def gap(self) -> float | None:
    """Points below clean."""
    return self.condition and self.condition.fall


@dataclasses.dataclass(frozen=True)
class Panel:
  """The table of one victim.

  Attributes:
    victim: the network.
    defences: columns.
    entries: by method, then defence, in the order of the axes.
    measured: mutual information by method.
    explanations: of the accuracy gap, as `arena_explanations` takes them; none where it has none.
    charts: accuracy over what was varied.
  """

  victim: str
  defences: tuple[str, ...]
  entries: Mapping[str, Mapping[str, Entry]]
  measured: arena_information.Measured
  explanations: arena_explanations.Explanations
  charts: tuple[Chart, ...]

  @property
  def gap_legend(self) -> str:
    """How to read `gap_table`."""
    return f"{GAP_LEGEND} {self.measured.legend}".strip()


@dataclasses.dataclass(frozen=True)
class Content:
  """What all views of the table of one data set say.

  Attributes:
    dataset: its name.
    panels: one for each victim.
    charts: accuracy and information over the victims, where there are two or more.
    notes: about cells that are lost or not filled yet, brought or larger budgets, and estimates.
    facts: columns of `FACT_COLUMNS`, one row for each method that has a poison.
    legend: how to read a cell.
    costs: by method, as given to `gather`.
  """

  dataset: str
  panels: tuple[Panel, ...]
  charts: tuple[Chart, ...]
  notes: tuple[str, ...]
  facts: list[list[str]]
  legend: str
  costs: Mapping[str, Mapping[str, Any]]


def gather(
  axes: Axes,
  rows: list[Row],
  lost: list[Row],
  measurements: list[Row],
  explanations: Mapping[str, arena_explanations.Explanations],
  facts: Mapping[str, Mapping[str, Any]],
  published: str,
) -> Content:
  """Sorts rows into the cells of the table.

  Args:
    axes: rows outside of them do not count.
    rows: trained victims.
    lost: cells that failed, with `reason`; a row of the same cell outweighs them.
    measurements: of undefended victims of the first seed, as for `arena_information.gather`.
    explanations: by victim, as for `arena_explanations.values`.
    facts: what each method's poisons cost and change: `seconds` (a list), `peak_memory_bytes`,
      `max_delta_255ths`, `beyond`, `budget`, `psnr_db`, `ssim`; and `settings`, as for
      `arena_curves.charts`.
    published: a key of `PUBLISHED`, or empty.

  Raises:
    UserError: a row lacks one of the keys that identify it.
  """
  rows = [row for row in rows if _inside(axes, row)]
  filled = {tuple(row[key] for key in IDENTITY) for row in rows}
  reasons = {tuple(row[key] for key in IDENTITY): str(row.get("reason")) for row in lost}
  open_cells = {key: reason for key, reason in reasons.items() if key not in filled}
  conditions = {(c.victim, c.defence, c.method): c for c in aggregate(rows)}
  numbers = PUBLISHED.get(published, {})
  panels = []
  for victim in axes.victims:
    entries = {
      method: {
        defence: Entry(
          conditions.get((victim, defence, method)),
          len(seeds),
          tuple(
            (seed, open_cells[key])
            for seed in seeds
            if (key := (axes.dataset, victim, defence, method, seed)) in open_cells
          ),
          numbers.get((method, defence)),
        )
        for defence, seeds in axes.seeds.items()
      }
      for method in axes.methods
    }
    seed = axes.seeds.get("none", (None,))[0]
    measured = arena_information.gather(measurements, axes.dataset, victim, seed)
    panels.append(
      Panel(
        victim,
        tuple(axes.seeds),
        _marked(entries),
        measured,
        tuple(explanations.get(victim, ())),
        tuple(arena_curves.charts(_last(entries), facts)),
      )
    )
  legend = LEGEND + (f" In brackets: {SOURCE[published]}." if published else "")
  return Content(
    dataset=axes.dataset,
    panels=tuple(panels),
    charts=tuple(arena_curves.over_victims({p.victim: _values(p) for p in panels})),
    notes=(
      *_loss_notes(panels),
      *_budget_notes(facts),
      *(warning for panel in panels for warning in panel.measured.warnings),
    ),
    facts=[_fact_cells(name, facts[name]) for name in axes.methods if facts.get(name)],
    legend=legend,
    costs=facts,
  )


def title(contents: Sequence[Content]) -> str:
  """The heading of all tables."""
  *names, last = (content.dataset for content in contents)
  listed = f"{', '.join(names)} and {last}" if names else last
  return f"Who makes {listed} unlearnable, and against whom?"


def side_by_side(contents: Sequence[Content]) -> tuple[tables.Columns, list[list[str]]]:
  """Columns and cells: every method without a defence, on all data sets and victims."""
  panels = [(content, panel) for content in contents for panel in content.panels]
  columns = [("method", False)]
  columns += [(f"{content.dataset}, {panel.victim}", True) for content, panel in panels]
  methods = dict.fromkeys(method for _, panel in panels for method in panel.entries)
  cells = [
    [
      method,
      *(
        accuracy(entry) if (entry := panel.entries.get(method, {}).get("none")) else tables.MISSING
        for _, panel in panels
      ),
    ]
    for method in methods
  ]
  return columns, cells


def _last(entries: Mapping[str, Mapping[str, Entry]]) -> arena_curves.Values:
  return {
    method: {defence: entry.last for defence, entry in line.items()}
    for method, line in entries.items()
  }


def _values(panel: Panel) -> tuple[arena_curves.Values, dict[str, dict[str, float]]]:
  """Accuracies of a panel, and its information by estimator and method."""
  information = {
    name: {
      method: value
      for method in panel.entries
      if (value := panel.measured.value(method, name)) is not None
    }
    for name in panel.measured.estimators
  }
  return _last(panel.entries), information


def _inside(axes: Axes, row: Row) -> bool:
  return (
    row.get("dataset") == axes.dataset
    and row.get("victim") in axes.victims
    and row.get("method") in axes.methods
    and row.get("seed") in axes.seeds.get(row.get("defence"), ())
  )


def _marked(entries: dict[str, dict[str, Entry]]) -> dict[str, dict[str, Entry]]:
  """The same entries, the strongest of each column marked; controls do not compete."""
  for defence in next(iter(entries.values())):
    accuracies = {
      method: line[defence].last.mean
      for method, line in entries.items()
      if method not in CONTROLS and line[defence].last
    }
    for method, accuracy in accuracies.items():
      if accuracy == min(accuracies.values()):
        entries[method][defence] = dataclasses.replace(entries[method][defence], strongest=True)
  return entries


def _loss_notes(panels: Sequence[Panel]) -> list[str]:
  """One sentence for each reason, with the cells that it cost."""
  cells: dict[str, list[str]] = {}
  for panel in panels:
    for method, line in panel.entries.items():
      for defence, entry in line.items():
        for seed, reason in entry.losses:
          cells.setdefault(reason, []).append(f"{method} / {panel.victim} / {defence} / {seed}")
  return [
    f"Lost (method / victim / defence / seed): {', '.join(where)}: {reason}"
    for reason, where in cells.items()
  ]


def _budget_notes(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
  beyond = [
    f"{name} ({fact['max_delta_255ths']}/255; budget: {fact['budget']})"
    for name, fact in facts.items()
    if fact.get("beyond")
  ]
  if not beyond:
    return []
  return [f"Values change by more than the others' epsilon in: {', '.join(beyond)}."]


def _fact_cells(name: str, fact: Mapping[str, Any]) -> list[str]:
  memory = fact.get("peak_memory_bytes")
  return [
    name,
    tables.mean_and_spread(statistic(fact["seconds"])),
    tables.MISSING if memory is None else f"{memory / 1e6:,.0f}",
    f"{fact['max_delta_255ths']}/255",
    str(fact["budget"]),
    tables.number(fact["psnr_db"], 1),
    tables.number(fact["ssim"], 3),
  ]


def accuracy(entry: Entry) -> str:
  """A cell of the table without emphasis; what is lost or not there yet is said."""
  parts = []
  if entry.last:
    parts.append(f"{tables.mean_and_spread(entry.last)} / {tables.mean_and_spread(entry.peak)}")
  trained = entry.condition.seeds if entry.condition else 0
  if entry.losses:
    parts.append("lost" if entry.wanted == 1 else f"{len(entry.losses)} of {entry.wanted} lost")
  if waiting := entry.wanted - trained - len(entry.losses):
    parts.append(NOT_YET if waiting == entry.wanted else f"{waiting} of {entry.wanted} {NOT_YET}")
  text = ", ".join(parts)
  return text if entry.published is None else f"{text} [{entry.published:.2f}]"


def gap(entry: Entry) -> str:
  """The accuracy gap of a cell."""
  return tables.number(entry.gap, 1)


def gap_table(panel: Panel) -> tuple[tables.Columns, list[list[str]]]:
  """Columns and cells: accuracy gaps, and mutual information where it was measured."""
  columns = [("gap", False), *((name, True) for name in panel.defences), *panel.measured.columns]
  cells = [
    [method, *(gap(line[name]) for name in panel.defences), *panel.measured.cells(method)]
    for method, line in panel.entries.items()
  ]
  return columns, cells


def heat(panel: Panel) -> list[list[float]]:
  """Mean accuracies after the last epoch, NaN where there is none: methods x defences."""
  return [
    [
      line[defence].last.mean
      if line[defence].last and finite(line[defence].last.mean)
      else float("nan")
      for defence in panel.defences
    ]
    for line in panel.entries.values()
  ]
