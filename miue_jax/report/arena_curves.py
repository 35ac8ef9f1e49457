"""Accuracy over what a table varies: networks, defences with a number, settings of a method."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from miue_jax.report import tables
from miue_jax.report.aggregate import Statistic
from miue_jax.report.arena_figures import Chart

_ACCURACY = "accuracy (%)"
_CLEAN = "clean"
# Numbered defences that differ in strength alone.
_STRENGTHS = {
  "jpeg": ("JPEG", "quality"),
  "at": ("Adversarial training", "radius (255ths)"),
}
# By what a recipe varies: title, axis, factor, and the settings that go with it.
_SETTINGS = {
  "fraction": ("Poisoning ratio", "poisoned images (%)", 100.0, ("fraction",)),
  "epsilon": ("Budget", "epsilon (255ths)", 255.0, ("epsilon", "epsilon_start")),
}

Values = Mapping[str, Mapping[str, Statistic | None]]  # accuracies by method, then defence


def charts(values: Values, facts: Mapping[str, Mapping[str, Any]]) -> list[Chart]:
  """Everything that was varied for one network, where a line has two points or more.

  Args:
    values: test accuracies, percent.
    facts: by method, `settings`: those that made its poison, of the sections model, source and
      method; methods without them are left out.
  """
  found = [_over_strength(values, kind) for kind in _STRENGTHS]
  found += [_over_setting(values, facts, key) for key in _SETTINGS]
  return [chart for chart in found if chart.lines]


def _over_strength(values: Values, kind: str) -> Chart:
  lines = {}
  for method, line in values.items():
    points = [
      (float(match[1]), value)
      for defence, value in line.items()
      if (match := re.fullmatch(rf"{kind}(\d+)", defence)) and value
    ]
    if len(points) > 1:
      lines[method] = sorted(points, key=lambda point: point[0])
  title, across = _STRENGTHS[kind]
  return Chart(title, across, _ACCURACY, lines)


def _over_setting(values: Values, facts: Mapping[str, Mapping[str, Any]], key: str) -> Chart:
  """One line for the methods that are alike in all settings but this one."""
  title, across, factor, varied = _SETTINGS[key]
  groups: dict[str, list[str]] = {}
  for method in values:
    if settings := facts.get(method, {}).get("settings"):
      groups.setdefault(_without(settings, varied), []).append(method)
  lines = {}
  for members in groups.values():
    points = [
      (factor * facts[method]["settings"]["method"][key], value)
      for method in members
      if (value := values[method].get("none"))
    ]
    if len({place for place, _ in points}) > 1:
      lines[_common(members, facts, lines)] = sorted(points, key=lambda point: point[0])
  clean = values.get(_CLEAN, {}).get("none")
  return Chart(title, across, _ACCURACY, lines, reference=clean and (_CLEAN, clean.mean))


def _without(settings: Mapping[str, Any], varied: Sequence[str]) -> str:
  method = {key: value for key, value in settings["method"].items() if key not in varied}
  return json.dumps(dict(settings) | {"method": method}, sort_keys=True)


def _common(
  members: Sequence[str], facts: Mapping[str, Mapping[str, Any]], taken: Mapping[str, Any]
) -> str:
  """The name of a line: that of the method, or where that is taken that of its first recipe."""
  name = facts[members[0]]["settings"]["method"]["name"]
  return members[0] if name in taken else name


def over_victims(
  panels: Mapping[str, tuple[Values, Mapping[str, Mapping[str, float]]]],
) -> list[Chart]:
  """Accuracy without a defence, and information by each estimator, over networks.

  Args:
    panels: by network, in the order of the axis: accuracies, and nats by estimator and method.

  Returns:
    Nothing for fewer than two networks; a chart without values is left out.
  """
  if len(panels) < 2:
    return []
  accuracies: dict[str, list] = {}
  information: dict[str, dict[str, list]] = {}
  for place, (values, estimates) in enumerate(panels.values()):
    for method, line in values.items():
      if value := line.get("none"):
        accuracies.setdefault(method, []).append((float(place), value))
    for estimator, found in estimates.items():
      for method, nats in found.items():
        points = information.setdefault(estimator, {}).setdefault(method, [])
        points.append((float(place), Statistic(nats, None, 1)))
  ticks = tuple(panels)
  found = [Chart("Test accuracy", "victim", _ACCURACY, accuracies, ticks)]
  for estimator, lines in information.items():
    found.append(Chart(f"Information, {estimator}", "victim", "MI (nats)", lines, ticks))
  return [chart for chart in found if chart.lines]


def table(chart: Chart) -> tuple[tables.Columns, list[list[str]]]:
  """Columns and cells of a chart over networks: one line for each of them."""
  columns = [("victim", False), *((name, True) for name in chart.lines)]
  digits = 1 if chart.up == _ACCURACY else 3
  values = {name: dict(points) for name, points in chart.lines.items()}
  cells = [
    [tick, *(tables.mean_and_spread(line.get(place), digits) for line in values.values())]
    for place, tick in enumerate(chart.ticks)
  ]
  return columns, cells
