"""Draws inline SVG in the page's CSS colours, and PNG data URIs."""

import base64
import dataclasses
import io
import itertools
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator
from PIL import Image

from miue_jax.report.aggregate import Statistic, methods_in_order

# Matplotlib draws with these placeholders (report.mplstyle uses them, too); `_inline` turns them
# into CSS variables, so that one drawing serves the light page, the dark page and print.
_NAMES = ("ink", "muted", "line", "clean", "random", "restored", *(f"series-{i}" for i in range(4)))
COLOURS = {name: f"#0101{i:02}" for i, name in enumerate(_NAMES)}
INK, MUTED, LINE = COLOURS["ink"], COLOURS["muted"], COLOURS["line"]

_STYLE = matplotlib.rc_params_from_file(
  pathlib.Path(__file__).with_name("report.mplstyle"), use_default_template=False
)
_WIDTH = 9.6  # inches across the page
NARROW = 4.4  # inches; the text of a chart of this width can be read on a phone
_CELL = 96  # Smaller images are enlarged to about this many pixels.

Points = Sequence[tuple[float, Statistic]]


@dataclasses.dataclass(frozen=True)
class Chart:
  """Lines in one pair of axes.

  Attributes:
    title: What was varied.
    across: Label of the horizontal axis, with the unit.
    up: Label of the vertical axis, with the unit.
    lines: Points by name, in the order of the axis; deviations are drawn where they are known.
    dashed: Second line of some names, in the same colour.
    ticks: Names of the horizontal places 0, 1, 2, ...; empty where places are numbers.
    reference: Height of each horizontal line by name.
    scale: Vertical axis: "zero" includes 0, "percent" is 0 to 100, "free" fits the data, "log".
    spread: Shows deviations as "bars", as a "band", or as whiskers of "columns" from 0.
  """

  title: str
  across: str
  up: str
  lines: Mapping[str, Points]
  dashed: Mapping[str, Points] = dataclasses.field(default_factory=dict)
  ticks: Sequence[str] = ()
  reference: Mapping[str, float] = dataclasses.field(default_factory=dict)
  scale: str = "zero"
  spread: str = "bars"


def grouped(
  points: Iterable[tuple[str, str, float, Statistic | float | None]],
) -> dict[str, dict[str, list[tuple[float, Statistic]]]]:
  """Groups points (chart, line, place, value) by chart and line, without those of value None."""
  found: dict[str, dict[str, list]] = {}
  for chart, line, place, value in points:
    if value is not None:
      shown = value if isinstance(value, Statistic) else Statistic(value, None, 1)
      found.setdefault(chart, {}).setdefault(line, []).append((float(place), shown))
  return found


def styles(names: Iterable[str]) -> dict[str, tuple[str, str]]:
  """Returns a colour and a marker for each condition, the same ones in every figure."""
  fixed = {n: (COLOURS[n], m) for n, m in (("clean", "o"), ("random", "s"), ("restored", "D"))}
  fixed["chance"] = MUTED, ""
  others = [name for name in methods_in_order(names) if name not in fixed]
  return fixed | {n: (COLOURS[f"series-{i % 4}"], "^v<>pPX*"[i % 8]) for i, n in enumerate(others)}


def line_charts(charts: Sequence[Chart], height: float = 2.9, width: float = _WIDTH) -> str | None:
  """Draws charts in rows of two.

  Args:
    charts: Charts with at least one line each.
    height: Height of a chart, inches.
    width: Width of a row, inches.

  Returns:
    An `<svg>`; None without charts.
  """
  if not charts:
    return None
  shown = methods_in_order(itertools.chain(*((*c.lines, *c.dashed, *c.reference) for c in charts)))
  look = styles(shown)
  columns = min(2, len(charts))
  rows = -(-len(charts) // columns)
  with matplotlib.rc_context(_STYLE):
    figure = Figure(figsize=(width, 0.6 + height * rows))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    handles: dict[str, Any] = {}
    for axis, chart in zip(axes, charts, strict=False):
      _chart(axis, chart, look)
      for handle, text in zip(*axis.get_legend_handles_labels(), strict=True):
        handles.setdefault(text, handle)
    for axis in axes[len(charts) :]:
      axis.remove()
    places = max(1, min(len(handles), 120 // (8 + max(map(len, handles)))))
    figure.legend(handles.values(), handles, loc="outside upper left", ncols=places)
    parts = (f"{chart.title}: {chart.up} over {chart.across}" for chart in charts)
    return _inline(figure, f"{'; '.join(parts)}; of {', '.join(shown)}.")


def _chart(axis: Any, chart: Chart, look: Mapping[str, tuple[str, str]]) -> None:
  for name, points in chart.lines.items():
    colour, marker = look[name]
    places, means, deviations = _arrays(points)
    shown = {"color": colour, "label": _label(name)}
    if chart.spread == "columns":
      whiskers = {"yerr": deviations, "ecolor": INK, "capsize": 3} if deviations.any() else {}
      drawn = axis.bar(places, means, 0.62, **shown, **whiskers)
      axis.bar_label(drawn, fmt="{:.3f}", fontsize=8.5, padding=2)
      continue
    every = max(1, len(places) // 8)
    axis.plot(places, means, marker=marker, markevery=(every - 1, every), **shown)
    if deviations.any() and chart.spread == "band":
      low, high = means - deviations, means + deviations
      axis.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)
    elif deviations.any():
      bars = {"fmt": "none", "ecolor": colour, "elinewidth": 1, "capsize": 3}
      axis.errorbar(places, means, deviations, **bars)
  for name, points in chart.dashed.items():
    places, means, _ = _arrays(points)
    axis.plot(places, means, color=look[name][0], linestyle=(0, (4, 2)), linewidth=1, alpha=0.8)
  for name, value in chart.reference.items():
    axis.axhline(value, color=look[name][0], linestyle=":", linewidth=1.2, label=_label(name))
  axis.set(title=chart.title, xlabel=chart.across, ylabel=chart.up)
  _scale(axis, chart)


def _arrays(points: Points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  values = [(place, value.mean, value.std or 0.0) for place, value in points]
  places, means, deviations = np.array(values, np.float64).reshape(-1, 3).T
  return places, means, deviations


def _scale(axis: Any, chart: Chart) -> None:
  places = sorted({place for points in chart.lines.values() for place, _ in points})
  if chart.ticks:
    slanted = {"rotation": 30, "ha": "right"} if len("".join(chart.ticks)) > 40 else {}
    axis.set_xticks(range(len(chart.ticks)), chart.ticks, **slanted)
    axis.set_xlim(-0.4, len(chart.ticks) - 0.6)
  elif len(places) <= 8:
    axis.set_xticks(places)
    axis.xaxis.set_major_formatter("{x:g}")
  else:
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
  if chart.scale == "log":
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("")
  elif chart.scale == "percent":
    axis.set_ylim(-2, 102)
  elif chart.scale == "zero":
    lowest = min(value.mean for points in chart.lines.values() for _, value in points)
    axis.set_ylim(min(0.0, 1.05 * lowest), 1.1 * axis.get_ylim()[1])


def _label(name: str) -> str:
  # Matplotlib leaves labels with a leading underscore out of the legend.
  return f"\u200b{name}" if name.startswith("_") else name


def heat_map(
  values: Sequence[Sequence[float]],
  lines: Sequence[str],
  columns: Sequence[str],
  framed: Collection[tuple[int, int]],
) -> str | None:
  """Draws percentages as colours and numbers.

  Args:
    values: Percent `[lines, columns]`; NaN is crossed out.
    lines: Names of the lines, from the top.
    columns: Names of the columns, from the left.
    framed: Line and column of each cell that gets a frame.

  Returns:
    An `<svg>`; None when no value is finite.
  """
  table = np.array(values, np.float64)
  if not np.isfinite(table).any():
    return None
  with matplotlib.rc_context(_STYLE | {"axes.grid": False}):
    figure = Figure(figsize=(_WIDTH, 0.9 + 0.36 * len(lines)))
    axis = figure.subplots()
    look = {"cmap": "cividis", "vmin": 0, "vmax": 100, "edgecolors": LINE, "linewidth": 0.7}
    mesh = axis.pcolormesh(np.ma.masked_invalid(table), **look)
    for (y, x), value in np.ndenumerate(table):
      known = np.isfinite(value)
      # White on the dark half of the colours, black on the bright half, on any page.
      colour = ("#ffffff" if value < 55 else "#000000") if known else INK
      text = f"{value:.1f}" if known else "\N{MULTIPLICATION SIGN}"
      axis.text(x + 0.5, y + 0.5, text, ha="center", va="center", color=colour, fontsize=8.5)
    for y, x in framed:
      axis.add_patch(Rectangle((x + 0.04, y + 0.06), 0.92, 0.88, fill=False, edgecolor="#ffffff"))
    axis.set_xticks(np.arange(len(columns)) + 0.5, columns)
    axis.set_yticks(np.arange(len(lines)) + 0.5, lines)
    axis.tick_params(length=0)
    axis.invert_yaxis()
    figure.colorbar(mesh, ax=axis, label="accuracy (%)", pad=0.01)
    return _inline(figure, f"Accuracy of {', '.join(lines)} with {', '.join(columns)}.")


def _inline(figure: Figure, alt: str) -> str:
  """Returns a figure as an `<svg>` with the description `alt`, in the colours of the page."""
  buffer = io.StringIO()
  figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
  svg = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
  view = re.findall(r'viewBox="[^"]+"', svg)[0]
  body = svg[svg.index(">", svg.index("<svg")) + 1 :].replace("xlink:href", "href")
  for name, colour in COLOURS.items():
    body = body.replace(colour, f"var(--{name})")
  label = escape(alt, quote=True)
  kind = "plot narrow" if figure.get_figwidth() <= NARROW else "plot"
  return f'<svg class="{kind}" {view} role="img" aria-label="{label}">{body}'.strip()


def image_uri(image: np.ndarray, cell: int = _CELL) -> str:
  """Returns a uint8 image `[H, W, C]` as a PNG data URI.

  Args:
    image: The image; a smaller one than `cell` is enlarged by whole pixels to about this size.
    cell: Size in pixels.
  """
  picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
  factor = max(1, round(cell / max(picture.size)))
  size = picture.width * factor, picture.height * factor
  buffer = io.BytesIO()
  picture.resize(size, Image.Resampling.NEAREST).save(buffer, format="PNG", optimize=True)
  return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def magnified(clean: np.ndarray, poisoned: np.ndarray, gain: int) -> np.ndarray:
  """Returns `gain` times the perturbation around mid-gray (128), clipped to uint8."""
  delta = poisoned.astype(np.int32) - clean.astype(np.int32)
  return np.clip(128 + gain * delta, 0, 255).astype(np.uint8)
