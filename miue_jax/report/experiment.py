"""Builds the report of one experiment: one poison, compared with clean images and noise."""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from miue_jax.report import figures, information, pages, tables, theory
from miue_jax.report import verdict as verdicts
from miue_jax.report.aggregate import CONTROLS, Condition, Row, aggregate, finite, mean_curve
from miue_jax.report.figures import Chart
from miue_jax.report.tables import spread

SHOWN = 8  # example images at most
GAIN = 16  # factor by which the pictures magnify the perturbation

_NO_RESULTS = "No victim has been trained yet; mode 'evaluate' does that."
_CELLS = {
  "dataset": lambda c: c.dataset,
  "victim": lambda c: c.victim,
  "defence": lambda c: c.defence,
  "trained on": lambda c: c.method,
  "seeds": lambda c: str(c.seeds),
  "epochs": lambda c: ", ".join(map(str, c.epochs)) or tables.MISSING,
  "test (%)": lambda c: spread(c.accuracy),
  "peak test (%)": lambda c: spread(c.metrics["peak_test_accuracy"]),
  "gap (points)": lambda c: tables.number(c.gap, 1),
  "train (%)": lambda c: spread(c.metrics["train_accuracy"]),
  "balanced (%)": lambda c: spread(c.metrics["balanced_accuracy"]),
  "AUC": lambda c: spread(c.metrics["auc"], 3),
  "time (s)": lambda c: spread(c.metrics["seconds"], 0),
}
_QUALITY = (
  ("budget", "epsilon_255ths", "{:.3g}/255"),
  ("largest change made", "max_delta_255ths", "{:.3g}/255"),
  ("PSNR", "psnr_db", "{:.1f} dB"),
  ("SSIM", "ssim", "{:.3f}"),
)


@dataclasses.dataclass(frozen=True)
class Examples:
  """A few images before and after perturbation.

  Attributes:
    clean: uint8 `[k, H, W, C]`, C is 1 or 3.
    poisoned: uint8 `[k, H, W, C]`, the same images perturbed.
    captions: k names, one for each image.
  """

  clean: np.ndarray
  poisoned: np.ndarray
  captions: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Experiment:
  """The results of all stages of an experiment.

  The report depends on these values only, not on the time or the machine.

  Attributes:
    rows: Trained victims: accuracies in percent, `auc` in [0, 1], `seconds`. A victim that occurs
      twice counts once, by its last row.
    config: Nested settings.
    command: Command line that started the experiment.
    manifest: Manifest of the poison. `num_classes` here or in the rows sets the chance level.
    measurement: `{"settings": {...}, "rows": [{"method", "mi" in nats, "std"}]}`, perhaps with
      `theory` and with more in each row (`estimator`, `interval`, `null_mean`, `null_std`,
      `warnings`, `settings`), as mode 'measure' writes them.
    examples: Images to show.
  """

  rows: Sequence[Row]
  config: Mapping[str, Any]
  command: str
  manifest: Mapping[str, Any] | None = None
  measurement: Mapping[str, Any] | None = None
  examples: Examples | None = None

  @functools.cached_property
  def files(self) -> dict[str, str]:
    """Returns the texts of `index.html`, `report.md` and `report.json`."""
    manifest, config, conditions = self.manifest or {}, self.config, aggregate(self.rows)
    classes = next(
      (x["num_classes"] for x in (*self.rows[:1], manifest) if x.get("num_classes")), None
    )
    chance = 100 / classes if classes else None
    present = [c.method for c in conditions if c.method not in CONTROLS]
    named = (manifest.get("method"), (config.get("method") or {}).get("name"))
    method = next((name for name in (*named, *present) if name in present), None)
    judged = verdicts.verdict(conditions, method, classes)
    dataset = manifest.get("dataset") or next((row["dataset"] for row in self.rows), None)
    measurement = self.measurement or {}
    rows, terms = measurement.get("rows") or (), measurement.get("theory") or ()
    provenance = tables.flatten({**manifest, "config": {}})
    values = {
      "title": f"Can {dataset or config.get('name') or 'this dataset'} still be learned?",
      "rules": verdicts,
      "verdict": judged,
      "conditions": conditions,
      "results": results(conditions),
      "no_results": _NO_RESULTS,
      "curves": figures.line_charts(learning_curves(conditions, chance), height=3.2),
      "quality": quality(manifest),
      "private": self.examples is not None,
      "pictures": pictures(self.examples),
      "information": information,
      "estimates": rows,
      "bars": information.bars(rows),
      "layers": information.layers(rows),
      "estimated_with": information.settings(measurement),
      "theory": theory,
      "terms": terms,
      "spectra": theory.spectra(terms),
      "course": theory.course(manifest.get("history")),
      "command": self.command,
      "settings": [("poison", provenance)] * bool(manifest) + tables.sections(config),
    }
    document = {"verdict": vars(judged), "chance": chance, "manifest": manifest}
    document |= {name: getattr(self, name) for name in ("rows", "measurement", "config", "command")}
    # The rows hold the curves; the other keys belong to comparisons.
    left_out = ("curves", "wanted", "losses")
    document["aggregates"] = [
      {key: value for key, value in dataclasses.asdict(c).items() if key not in left_out}
      for c in conditions
    ]
    text = json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False)
    return {
      "report.json": text + "\n",
      "report.md": pages.render("experiment", "markdown", values),
      "index.html": pages.render("experiment", "html", values),
    }


def quality(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Returns what is known of the size of a poison, as pairs of a name and a value."""
  known = {n: f.format(manifest[k]) for n, k, f in _QUALITY if finite(manifest.get(k))}
  if "budget" in manifest:
    known["budget"] = manifest["budget"]
  return list(known.items())


def table(rows: Sequence[Row]) -> str:
  """Returns results as an aligned Markdown table with one line for each condition."""
  return tables.markdown(*results(aggregate(rows))) if rows else _NO_RESULTS


def results(conditions: Sequence[Condition]) -> tables.Table:
  """Returns a table with one line for each condition; a single dataset takes no column."""
  single = len({c.dataset for c in conditions}) < 2
  cells = {name: cell for name, cell in _CELLS.items() if not (single and name == "dataset")}
  return tables.build(conditions, cells, text=("dataset", "victim", "defence", "trained on"))


def learning_curves(conditions: Sequence[Condition], chance: float | None) -> list[Chart]:
  """Returns a chart of accuracies over epochs for each victim and defence."""
  curves: dict[tuple, tuple[dict, dict]] = {}
  for c in conditions:
    if points := mean_curve(c.curves, "test_accuracy"):
      test, train = curves.setdefault(c.setting, ({}, {}))
      test[c.method], train[c.method] = points, mean_curve(c.curves, "train_accuracy")
  reference = {} if chance is None else {"chance": chance}
  look = {"reference": reference, "scale": "percent", "spread": "band"}
  charts = []
  for (dataset, victim, defence), (test, train) in curves.items():
    title = f"{victim} on {dataset}, {'no defence' if defence == 'none' else f'defence {defence}'}"
    charts.append(Chart(title, "epoch", "accuracy (%)", test, train, **look))
  return charts


def pictures(examples: Examples | None) -> dict[str, Any] | None:
  """Returns captions and rows of example images as data URIs; None without images."""
  if examples is None or not len(examples.clean):
    return None
  clean, poisoned = examples.clean[:SHOWN], examples.poisoned[:SHOWN]
  delta = figures.magnified(clean, poisoned, GAIN)
  rows = {"clean": clean, f"perturbation x{GAIN}": delta, "poisoned": poisoned}
  return {
    "gain": GAIN,
    "captions": examples.captions[:SHOWN],
    "rows": [(name, list(map(figures.image_uri, images))) for name, images in rows.items()],
  }


def _plain(value: Any) -> Any:
  """Returns the same tree in types that strict JSON can hold; NaN becomes None."""
  if isinstance(value, Mapping):
    return {str(key): _plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(item) for item in value]
  if isinstance(value, np.ndarray | np.generic):
    return _plain(value.tolist())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
