"""Builds charts of what a comparison varies: victims, numbered defences and settings."""

import json
import re
from collections.abc import Mapping
from typing import Any

from miue_jax.report import tables
from miue_jax.report.aggregate import Condition, Statistic
from miue_jax.report.figures import Chart
from miue_jax.report.information import Estimates

_ACCURACY = "accuracy (%)"
# Defences whose number is a strength: title and axis.
_STRENGTHS = {
  "jpeg": ("JPEG", "quality"),
  "at": ("Adversarial training", "radius (255ths)"),
}
# Settings of methods: title, axis, factor, and the settings that change with it.
_SETTINGS = {
  "fraction": ("Poisoning ratio", "poisoned images (%)", 100.0, ("fraction",)),
  "epsilon": ("Budget", "epsilon (255ths)", 255.0, ("epsilon", "epsilon_start")),
}

Lines = Mapping[str, Mapping[str, Condition]]  # conditions by method, then defence
Facts = Mapping[str, Mapping[str, Any]]


def of_victim(lines: Lines, facts: Facts) -> list[Chart]:
  """Returns a chart for everything that was varied for one victim.

  Args:
    lines: conditions by method, then defence. A line of a chart has two points or more.
    facts: by method, `settings`: the sections model, source and method of the recipe of its
      poison; methods without them are left out.
  """
  found = [_over_strength(lines, kind) for kind in _STRENGTHS]
  found += [_over_setting(lines, facts, key) for key in _SETTINGS]
  return [chart for chart in found if chart.lines]


def _over_strength(lines: Lines, kind: str) -> Chart:
  found = {}
  for method, line in lines.items():
    points = [
      (float(match[1]), c.accuracy)
      for defence, c in line.items()
      if (match := re.fullmatch(rf"{kind}(\d+)", defence)) and c.accuracy
    ]
    if len(points) > 1:
      found[method] = sorted(points, key=lambda point: point[0])
  title, across = _STRENGTHS[kind]
  return Chart(title, across, _ACCURACY, found)


def _over_setting(lines: Lines, facts: Facts, key: str) -> Chart:
  title, across, factor, varied = _SETTINGS[key]
  groups: dict[str, list[str]] = {}
  for method in lines:
    if settings := facts.get(method, {}).get("settings"):
      same = {name: value for name, value in settings["method"].items() if name not in varied}
      name = json.dumps(dict(settings) | {"method": same}, sort_keys=True)
      groups.setdefault(name, []).append(method)
  found: dict[str, list] = {}
  for members in groups.values():
    points = [
      (factor * facts[method]["settings"]["method"][key], value)
      for method in members
      if (value := _undefended(lines, method))
    ]
    if len({place for place, _ in points}) > 1:
      name = facts[members[0]]["settings"]["method"]["name"]
      found[members[0] if name in found else name] = sorted(points, key=lambda point: point[0])
  clean = _undefended(lines, "clean")
  return Chart(title, across, _ACCURACY, found, reference=clean and ("clean", clean.mean))


def _undefended(lines: Lines, method: str) -> Statistic | None:
  condition = lines.get(method, {}).get("none")
  return condition and condition.accuracy


def over_victims(grids: Mapping[str, tuple[Lines, Estimates]]) -> list[Chart]:
  """Returns charts of accuracy without a defence, and of each information estimate, over victims.

  Args:
    grids: by victim, in the order of the axis, the conditions and the estimates.

  Returns:
    Charts with at least one line; none for fewer than two victims.
  """
  accuracies: dict[str, list] = {}
  information: dict[str, dict[str, list]] = {}
  for place, (lines, estimates) in enumerate(grids.values()):
    for method in lines:
      if value := _undefended(lines, method):
        accuracies.setdefault(method, []).append((float(place), value))
      for name in estimates.estimators:
        if (nats := estimates.value(method, name)) is not None:
          points = information.setdefault(name, {}).setdefault(method, [])
          points.append((float(place), Statistic(nats, None, 1)))
  ticks = tuple(grids)
  found = [Chart("Test accuracy", "victim", _ACCURACY, accuracies, ticks=ticks)]
  for name, values in information.items():
    found.append(Chart(f"Information, {name}", "victim", "MI (nats)", values, ticks=ticks))
  return [chart for chart in found if chart.lines] if len(grids) > 1 else []


def table(chart: Chart) -> tables.Table:
  """Returns a chart over victims as a table with one line for each victim."""
  columns = [("victim", False), *((name, True) for name in chart.lines)]
  digits = 1 if chart.up == _ACCURACY else 3
  values = [dict(points) for points in chart.lines.values()]
  cells = [
    [tick, *(tables.spread(points.get(float(place)), digits) for points in values)]
    for place, tick in enumerate(chart.ticks)
  ]
  return columns, cells
