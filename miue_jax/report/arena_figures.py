"""Drawings of the arena: a heat map of a table, and lines over what was varied."""

import dataclasses
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from miue_jax.report import figures
from miue_jax.report.aggregate import Statistic, methods_in_order


@dataclasses.dataclass(frozen=True)
class Chart:
  """Lines of one drawing.

  Attributes:
    title: what was varied.
    across: what lies along the horizontal axis, with its unit.
    up: the same of the vertical axis.
    lines: by name, points in the order of the axis; spreads are drawn where they are known.
    ticks: names of the horizontal places 0, 1, 2, ...; empty where they are numbers.
    reference: a value by name that does not depend on what was varied.
  """

  title: str
  across: str
  up: str
  lines: Mapping[str, Sequence[tuple[float, Statistic]]]
  ticks: tuple[str, ...] = ()
  reference: tuple[str, float] | None = None


def line_charts(charts: Sequence[Chart], name: str) -> str | None:
  """Charts in rows of two.

  Args:
    charts: each becomes one set of axes.
    name: of the drawing, unlike those of the others on its page.

  Returns:
    An `<svg>`; None without charts.
  """
  if not charts:
    return None
  references = [chart.reference[0] for chart in charts if chart.reference]
  shown = methods_in_order([*(line for chart in charts for line in chart.lines), *references])
  look = figures.styles(shown)
  columns = min(2, len(charts))
  rows = -(-len(charts) // columns)
  with matplotlib.rc_context(figures.STYLE | {"svg.hashsalt": name}):
    figure = Figure(figsize=(figures.WIDTH, 0.6 + 2.9 * rows))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    handles = {}
    for axis, chart in zip(axes, charts, strict=False):
      _chart(axis, chart, look)
      for handle, text in zip(*axis.get_legend_handles_labels(), strict=True):
        handles.setdefault(text, handle)
    for axis in axes[len(charts) :]:
      axis.remove()
    figure.legend(
      handles.values(),
      handles,
      loc="outside upper left",
      ncols=max(1, min(len(handles), 120 // (8 + max(map(len, handles))))),
    )
    said = "; ".join(f"{chart.up} over {chart.across}" for chart in charts)
    return figures.inline(figure, name, f"{said}, of {', '.join(shown)}.")


def _chart(axis, chart: Chart, look: Mapping[str, tuple[str, str]]) -> None:
  for name, points in chart.lines.items():
    colour, marker = look[name]
    places = [place for place, _ in points]
    means = [value.mean for _, value in points]
    spreads = [value.std or 0.0 for _, value in points]
    label = figures.line_label(name)
    axis.plot(places, means, color=colour, marker=marker, markersize=4, label=label)
    if any(spreads):
      axis.errorbar(places, means, spreads, fmt="none", ecolor=colour, elinewidth=1, capsize=3)
  if chart.reference:
    name, value = chart.reference
    style = {"color": look[name][0], "linestyle": (0, (4, 2)), "linewidth": 1}
    axis.axhline(value, label=figures.line_label(name), **style)
  axis.set_title(chart.title, loc="left")
  axis.set_xlabel(chart.across)
  axis.set_ylabel(chart.up)
  if chart.ticks:
    axis.set_xticks(range(len(chart.ticks)), chart.ticks)
    axis.set_xlim(-0.3, len(chart.ticks) - 0.7)
  else:
    axis.set_xticks(sorted({place for points in chart.lines.values() for place, _ in points}))
    axis.xaxis.set_major_formatter("{x:g}")
  lowest = min(value.mean for points in chart.lines.values() for _, value in points)
  axis.set_ylim(min(0.0, 1.05 * lowest), 1.05 * axis.get_ylim()[1])


def heat_map(
  values: Sequence[Sequence[float]],
  lines: Sequence[str],
  columns: Sequence[str],
  framed: Sequence[tuple[int, int]],
  name: str,
) -> str | None:
  """Percentages by colour and number.

  Args:
    values: percent `[lines, columns]`; NaN is crossed out.
    lines: names, from the top.
    columns: names, from the left.
    framed: (line, column) of cells that stand out.
    name: of the drawing, unlike those of the others on its page.

  Returns:
    An `<svg>`; None when no value is finite.
  """
  table = np.array(values, np.float64)
  if not np.isfinite(table).any():
    return None
  with matplotlib.rc_context(figures.STYLE | {"svg.hashsalt": name, "axes.grid": False}):
    figure = Figure(figsize=(figures.WIDTH, 0.9 + 0.36 * len(lines)))
    axis = figure.subplots()
    mesh = axis.pcolormesh(
      np.ma.masked_invalid(table),
      cmap="cividis",
      vmin=0,
      vmax=100,
      edgecolors=figures.GRID,
      linewidth=0.7,
    )
    for (y, x), value in np.ndenumerate(table):
      known = np.isfinite(value)
      # White on the dark half of the colours, black on the bright one, on any page.
      colour = ("#ffffff" if value < 55 else "#000000") if known else figures.INK
      text = f"{value:.1f}" if known else "\N{MULTIPLICATION SIGN}"
      axis.text(x + 0.5, y + 0.5, text, ha="center", va="center", color=colour, fontsize=8.5)
    for y, x in framed:
      frame = Rectangle((x + 0.04, y + 0.06), 0.92, 0.88, fill=False, edgecolor="#ffffff")
      axis.add_patch(frame)
    axis.set_xticks(np.arange(len(columns)) + 0.5, columns)
    axis.set_yticks(np.arange(len(lines)) + 0.5, lines)
    axis.tick_params(length=0)
    axis.invert_yaxis()
    figure.colorbar(mesh, ax=axis, label="accuracy (%)", pad=0.01)
    return figures.inline(
      figure, name, f"Accuracy of {', '.join(lines)} under {', '.join(columns)}."
    )
