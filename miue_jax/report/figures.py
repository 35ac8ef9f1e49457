"""Figures: inline SVG whose colours are the page's CSS variables, and PNG data URIs."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from miue_jax.report import information
from miue_jax.report.aggregate import Condition, finite, mean_curve, methods_in_order

# Matplotlib draws with these placeholders; `inline` turns them into CSS variables, so that one
# drawing serves the light page, the dark page and print.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
CLEAN, RANDOM, RESTORED = "#040400", "#040401", "#040402"
SERIES = ("#040403", "#040404", "#040405", "#040406")
_VARIABLES = {
  INK: "ink",
  MUTED: "muted",
  GRID: "line",
  CLEAN: "clean",
  RANDOM: "random",
  RESTORED: "restored",
} | {colour: f"series-{i}" for i, colour in enumerate(SERIES)}

STYLE = {
  "axes.axisbelow": True,
  "axes.edgecolor": MUTED,
  "axes.grid": True,
  "axes.labelcolor": INK,
  "axes.labelsize": 9,
  "axes.linewidth": 0.7,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.titlesize": 9.5,
  "figure.constrained_layout.use": True,
  "font.family": "DejaVu Sans",
  "font.size": 9,
  "grid.color": GRID,
  "grid.linewidth": 0.7,
  "legend.fontsize": 9,
  "legend.frameon": False,
  "legend.labelcolor": INK,
  "lines.linewidth": 1.6,
  "svg.fonttype": "none",
  "text.color": INK,
  "text.parse_math": False,
  "xtick.color": MUTED,
  "xtick.labelcolor": INK,
  "xtick.labelsize": 8.5,
  "ytick.color": MUTED,
  "ytick.labelcolor": INK,
  "ytick.labelsize": 8.5,
}
WIDTH = 9.6  # inches across the page
CELL = 96  # pixels: small images are enlarged to at least this


def styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
  """A colour and a marker for each condition, the same ones in every figure."""
  fixed = {"clean": (CLEAN, "o"), "random": (RANDOM, "s"), "restored": (RESTORED, "D")}
  others = [name for name in methods_in_order(names) if name not in fixed]
  return fixed | {n: (SERIES[i % 4], "^v<>pPX*"[i % 8]) for i, n in enumerate(others)}


def learning_curves(conditions: Sequence[Condition], chance: float | None) -> str | None:
  """Test accuracy (solid, band: one std over seeds) and train accuracy (dashed) over epochs.

  Returns:
    An `<svg>` with one panel for each victim and defence; None when no row carries a curve.
  """
  panels: dict[tuple[str, ...], list[Condition]] = {}
  for condition in conditions:
    if mean_curve(condition.curves, "test_accuracy")[0].size:
      panels.setdefault(condition.setting, []).append(condition)
  if not panels:
    return None
  look = styles([c.method for c in conditions])
  columns = min(2, len(panels))
  rows = -(-len(panels) // columns)
  with matplotlib.rc_context(STYLE | {"svg.hashsalt": "curves"}):
    figure = Figure(figsize=(WIDTH, 0.5 + (3.4 if columns == 1 else 2.6) * rows))
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axis, (setting, members) in zip(axes, panels.items(), strict=False):
      if len(panels) > 1:
        axis.set_title(_panel_title(setting), loc="left")
      _curve_panel(axis, members, look, chance)
    for axis in axes[len(panels) :]:
      axis.remove()
    for row in range(rows):
      axes[row * columns].set_ylabel("accuracy (%)")
    handles = {}
    for axis in axes[: len(panels)]:
      handles |= {t: h for h, t in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(
      handles.values(),
      handles,
      loc="outside upper left",
      ncols=max(1, min(len(handles), 120 // (8 + max(map(len, handles))))),
    )
    shown = methods_in_order(c.method for c in conditions)
    return inline(figure, "curves", f"Test and train accuracy over epochs for {', '.join(shown)}.")


def _curve_panel(
  axis: Any, members: list[Condition], look: dict[str, tuple[str, str]], chance: float | None
) -> None:
  for condition in members:
    colour, marker = look[condition.method]
    epochs, mean, std = mean_curve(condition.curves, "test_accuracy")
    axis.fill_between(epochs, mean - std, mean + std, color=colour, alpha=0.2, linewidth=0)
    every = max(1, len(epochs) // 8)
    axis.plot(
      epochs,
      mean,
      color=colour,
      marker=marker,
      markersize=4,
      markevery=(every - 1, every),
      label=line_label(condition.method),
    )
    epochs, mean, _ = mean_curve(condition.curves, "train_accuracy")
    axis.plot(epochs, mean, color=colour, linestyle=(0, (4, 2)), linewidth=1, alpha=0.8)
  axis.plot([], [], color=MUTED, linestyle=(0, (4, 2)), linewidth=1, label="train accuracy")
  if chance is not None:
    axis.axhline(chance, color=MUTED, linestyle=":", linewidth=1, label="chance")
  axis.set_ylim(-2, 102)
  axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
  axis.set_xlabel("epoch")


def _panel_title(setting: tuple[str, ...]) -> str:
  dataset, victim, defence = setting
  return f"{victim} on {dataset}, {'no' if defence == 'none' else defence} defence"


def line_label(method: str) -> str:
  """A name as the legend takes it."""
  # Matplotlib leaves labels with a leading underscore out of the legend.
  return f"\u200b{method}" if method.startswith("_") else method


def information_bars(rows: Sequence[Mapping[str, Any]]) -> str | None:
  """Mutual information of each condition in nats, with one standard deviation where known.

  Of several layers only the last is shown: `information_layers` has them all.

  Returns:
    An `<svg>` with one panel for each estimator, as their values are not comparable; None when no
    value is finite.
  """
  rows = [row for row in rows if finite(row.get("mi"))]
  last = rows[-1].get("layer") if rows else None
  panels = information.groups(row for row in rows if row.get("layer") == last)
  if not panels:
    return None
  look = styles([str(row.get("method")) for members in panels.values() for row in members])
  heights = [0.75 + 0.36 * len(members) for members in panels.values()]
  with matplotlib.rc_context(STYLE | {"svg.hashsalt": "information"}):
    figure = Figure(figsize=(WIDTH, sum(heights)))
    axes = figure.subplots(len(panels), height_ratios=heights, squeeze=False).ravel()
    listed = []
    for axis, (estimator, members) in zip(axes, panels.items(), strict=True):
      _bar_panel(axis, members, look)
      title = ""
      if len(panels) > 1:
        axis.set_title(estimator, loc="left")
        title = f"{estimator}: "
      values = (f"{row.get('method')} {row['mi']:.3f}" for row in members)
      listed.append(title + ", ".join(values))
    axes[-1].set_xlabel("mutual information (nats)")
    return inline(figure, "information", f"Mutual information in nats: {'; '.join(listed)}.")


def information_layers(rows: Sequence[Mapping[str, Any]]) -> str | None:
  """Mutual information over the layers of a network, in their order.

  Returns:
    An `<svg>` with one panel for each estimator; None for fewer than two layers.
  """
  rows = [row for row in rows if finite(row.get("mi")) and row.get("layer")]
  layers = list(dict.fromkeys(str(row["layer"]) for row in rows))
  if len(layers) < 2:
    return None
  panels: dict[str, dict[str, dict[int, float]]] = {}
  for row in rows:
    lines = panels.setdefault(str(row.get("estimator")), {})
    lines.setdefault(str(row.get("method")), {})[layers.index(str(row["layer"]))] = row["mi"]
  look = styles([str(row.get("method")) for row in rows])
  with matplotlib.rc_context(STYLE | {"svg.hashsalt": "layers"}):
    figure = Figure(figsize=(WIDTH, 0.6 + 2.6 * len(panels)))
    axes = figure.subplots(len(panels), squeeze=False).ravel()
    for axis, (estimator, lines) in zip(axes, panels.items(), strict=True):
      for method, points in lines.items():
        colour, marker = look[method]
        label = line_label(method)
        axis.plot(*zip(*points.items(), strict=True), color=colour, marker=marker, label=label)
      axis.set_title(estimator, loc="left")
      axis.set_ylabel("nats")
      axis.set_xticks(range(len(layers)), layers, rotation=30, ha="right")
      axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
    axes[0].legend()
    return inline(figure, "layers", f"Mutual information in nats over {', '.join(layers)}.")


def spectra(found: Mapping[str, Mapping[str, Sequence[float]]]) -> str | None:
  """Eigenvalues by rank, on a logarithmic scale; dashed before release, solid after.

  Args:
    found: by method, `before` and `after`.

  Returns:
    An `<svg>`; None without a positive value.
  """
  look = styles(list(found))
  with matplotlib.rc_context(STYLE | {"svg.hashsalt": "spectra"}):
    figure = Figure(figsize=(WIDTH, 3.2))
    axis = figure.subplots()
    for method, moments in found.items():
      for moment, style in (("before", (0, (4, 2))), ("after", "-")):
        # What a class does not vary in has no logarithm.
        values = [value for value in moments[moment] if value > 0]
        label = line_label(method) if moment == "after" else None
        places = range(1, len(values) + 1)
        axis.plot(places, values, color=look[method][0], linestyle=style, label=label)
    if not any(len(line.get_xdata()) for line in axis.lines):
      return None
    axis.set_yscale("log")
    axis.set_xlabel("rank")
    axis.set_ylabel("eigenvalue")
    axis.legend()
    return inline(figure, "spectra", f"Covariance spectra of features for {', '.join(found)}.")


def _bar_panel(
  axis: Any, rows: Sequence[Mapping[str, Any]], look: dict[str, tuple[str, str]]
) -> None:
  names = [str(row.get("method")) for row in rows]
  values = np.array([row["mi"] for row in rows], np.float64)
  spreads = np.array([row["std"] if finite(row.get("std")) else 0.0 for row in rows], np.float64)
  place = np.arange(len(rows))
  axis.barh(place, values, height=0.62, color=[look[name][0] for name in names])
  shown = spreads > 0
  axis.errorbar(
    values[shown],
    place[shown],
    xerr=spreads[shown],
    fmt="none",
    ecolor=INK,
    elinewidth=1,
    capsize=3,
  )
  for y, value, std in zip(place, values, spreads, strict=True):
    text = f"{value:.3f} ± {std:.3f}" if std else f"{value:.3f}"
    axis.annotate(
      text,
      (max(value + std, 0), y),
      (6, 0),
      textcoords="offset points",
      va="center",
      fontsize=8.5,
    )
  axis.set_yticks(place, names)
  axis.invert_yaxis()
  axis.tick_params(axis="y", length=0)
  axis.grid(visible=False, axis="y")
  axis.set_xlim(min(0.0, values.min() * 1.1), max(1e-6, (values + spreads).max() * 1.18))


def course(
  epochs: Sequence[int], panels: Mapping[str, Sequence[float]], name: str, alt: str
) -> str | None:
  """Curves over epochs of generation, side by side as they have units of their own.

  Args:
    epochs: counted from 1.
    panels: values of each epoch by what they are.
    name: of the drawing, unlike those of the others on its page.
    alt: what it shows, for those who do not see it.

  Returns:
    An `<svg>`; None for fewer than two epochs.
  """
  if len(epochs) < 2:
    return None
  with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
    figure = Figure(figsize=(WIDTH, 2.9))
    axes = figure.subplots(1, len(panels), squeeze=False).ravel()
    for axis, (title, values), colour in zip(axes, panels.items(), SERIES, strict=False):
      axis.plot(epochs, values, color=colour, marker="o", markersize=4)
      axis.set_title(title, loc="left")
      axis.set_xlabel("epoch of generation")
      axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    return inline(figure, name, alt)


def inline(figure: Figure, name: str, alt: str) -> str:
  """A figure as `<svg>`, in the colours of the page.

  Args:
    figure: drawn in `STYLE`.
    name: unlike those of the other drawings on its page.
    alt: what it shows, for those who do not see it.
  """
  buffer = io.StringIO()
  figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
  svg = buffer.getvalue()
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
  view = re.search(r'viewBox="[^"]+"', svg).group()
  body = svg[svg.index(">") + 1 :]
  # Ids are global in a page with several drawings.
  body = re.sub(r'( id="|url\(#|xlink:href="#)', rf"\g<1>{name}-", body).replace(
    "xlink:href", "href"
  )
  for colour, variable in _VARIABLES.items():
    body = body.replace(colour, f"var(--{variable})")
  label = escape(alt, quote=True)
  return f'<svg class="plot" {view} role="img" aria-label="{label}">{body}'.strip()


def image_uri(image: np.ndarray) -> str:
  """A uint8 image `[H, W, C]` as a PNG data URI, enlarged by whole pixels to about `CELL`."""
  picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
  factor = max(1, round(CELL / max(picture.size)))
  size = picture.width * factor, picture.height * factor
  buffer = io.BytesIO()
  picture.resize(size, Image.Resampling.NEAREST).save(buffer, format="PNG", optimize=True)
  return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def magnified(clean: np.ndarray, poisoned: np.ndarray, gain: int) -> np.ndarray:
  """`gain` times the perturbation around mid-gray (128), clipped to uint8; shapes alike."""
  delta = poisoned.astype(np.int32) - clean.astype(np.int32)
  return np.clip(128 + gain * delta, 0, 255).astype(np.uint8)
