"""Builds charts of what a comparison varies: victims, numbered defences and settings."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from miue_jax.report import tables
from miue_jax.report.aggregate import Condition, Statistic
from miue_jax.report.figures import Chart, Points, grouped
from miue_jax.report.information import Estimates

_ACCURACY = "accuracy (%)"
# Defences whose number is a strength: title and axis.
_STRENGTHS = {
  "jpeg": ("JPEG", "quality"),
  "at": ("Adversarial training", "radius (255ths)"),
}
# Settings of methods: title, axis and factor.
_SETTINGS = {
  "fraction": ("Poisoning ratio", "poisoned images (%)", 100.0),
  "epsilon": ("Budget", "epsilon (255ths)", 255.0),
}

Lines = Mapping[str, Mapping[str, Condition]]  # conditions by method, then defence
Facts = Mapping[str, Mapping[str, Any]]


def of_victim(lines: Lines, facts: Facts) -> list[Chart]:
  """Returns a chart for everything that was varied for one victim.

  Args:
    lines: Conditions by method, then defence. A line of a chart has two points or more.
    facts: By method, `settings` of its poison; methods without them are left out.
  """
  found = [_over_strength(lines, kind) for kind in _STRENGTHS]
  found += [_over_setting(lines, facts, key) for key in _SETTINGS]
  return [chart for chart in found if chart.lines]


def _over_strength(lines: Lines, kind: str) -> Chart:
  points = [
    (kind, method, float(match[1]), condition.accuracy)
    for method, line in lines.items()
    for defence, condition in line.items()
    if (match := re.fullmatch(rf"{kind}(\d+)", defence))
  ]
  return Chart(*_STRENGTHS[kind], _ACCURACY, _curves(points))


def _over_setting(lines: Lines, facts: Facts, key: str) -> Chart:
  title, across, factor = _SETTINGS[key]
  first: dict[str, str] = {}  # first method with the same other settings
  points = []
  for method in lines:
    if settings := facts.get(method, {}).get("settings"):
      same = json.dumps({n: v for n, v in settings.items() if n != key}, sort_keys=True)
      place = factor * settings[key]
      points.append((key, first.setdefault(same, method), place, _undefended(lines, method)))
  curves: dict[str, Points] = {}
  for member, curve in _curves(points).items():
    name = facts[member]["settings"]["name"]
    curves[member if name in curves else name] = curve
  clean = _undefended(lines, "clean")
  return Chart(title, across, _ACCURACY, curves, reference={"clean": clean.mean} if clean else {})


def _curves(points: Iterable[tuple[str, str, float, Statistic | None]]) -> dict[str, Points]:
  """Returns the lines of one chart that have two places or more, sorted by place."""
  lines = next(iter(grouped(points).values()), {})
  curves = {name: sorted(line, key=lambda point: point[0]) for name, line in lines.items()}
  return {name: curve for name, curve in curves.items() if curve[0][0] < curve[-1][0]}


def _undefended(lines: Lines, method: str) -> Statistic | None:
  condition = lines.get(method, {}).get("none")
  return condition.accuracy if condition else None


def over_victims(grids: Mapping[str, tuple[Lines, Estimates]]) -> list[Chart]:
  """Returns charts of accuracy without a defence, and of each information estimate, over victims.

  Args:
    grids: By victim, in the order of the axis, the conditions and the estimates.

  Returns:
    Charts with at least one line; none for fewer than two victims.
  """
  points: list[tuple[str, str, float, Statistic | float | None]] = []
  for place, (lines, estimates) in enumerate(grids.values()):
    for method in lines:
      points.append((_ACCURACY, method, place, _undefended(lines, method)))
      for name in estimates.estimators:
        points.append((name, method, place, estimates.value(method, name)))
  found = grouped(points) if len(grids) > 1 else {}
  titles = {_ACCURACY: ("Test accuracy", "victim", _ACCURACY)}
  return [
    Chart(
      *titles.get(name, (f"Information, {name}", "victim", "MI (nats)")), line, ticks=tuple(grids)
    )
    for name, line in found.items()
  ]


def table(chart: Chart) -> tables.Table:
  """Returns a chart over victims as a table with one line for each victim."""
  digits = 1 if chart.up == _ACCURACY else 3
  lines = {name: dict(points) for name, points in chart.lines.items()}
  cells = [
    [tick, *(tables.spread(line.get(float(place)), digits) for line in lines.values())]
    for place, tick in enumerate(chart.ticks)
  ]
  return [("victim", False), *((name, True) for name in lines)], cells
