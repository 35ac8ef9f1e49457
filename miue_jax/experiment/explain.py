"""Correlates explanations of a poison's strength with its accuracy gap, for each victim."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from miue_jax.information import explanations
from miue_jax.report import Axes, information
from miue_jax.report.aggregate import CONTROLS, aggregate

Row = Mapping[str, Any]


def by_victim(
  axes: Axes, rows: Sequence[Row], measurements: Sequence[Row]
) -> dict[str, list[dict[str, Any]]]:
  """Returns rank correlations of all explanations with the accuracy gap of undefended victims.

  Args:
    axes: Axes of the table. Other rows are ignored, and controls are not correlated.
    rows: Rows of trained victims.
    measurements: Rows of measured victims of the first seed, with `rows` and `theory` as
      `measure.measured` returns them.

  Returns:
    For each victim and explanation the fields of `explanations.Correlation`, and `values` and
    `gaps` (points) by poison, None if unknown. Explanations without any value are left out.
  """
  poisons = [name for name in axes.methods if name not in CONTROLS]
  seeds = axes.seeds.get("none", ())
  if not poisons or not seeds:
    return {}
  found = {}
  for victim in axes.victims:
    wanted: dict[str, Any] = {"dataset": axes.dataset, "victim": victim, "defence": "none"}
    trained = [row for row in rows if wanted.items() <= row.items() and row["seed"] in seeds]
    wanted["seed"] = seeds[0]
    lines = {row["method"]: row for row in measurements if wanted.items() <= row.items()}
    gap_of = {condition.method: condition.gap for condition in aggregate(trained)}
    terms = {name: _terms(lines.get(name), lines.get("clean")) for name in poisons}
    for name in poisons:
      terms[name]["training loss after the first epoch (nats)"] = _first_loss(trained, name)
    gaps = [gap_of.get(name) for name in poisons]
    values = {
      explanation: [terms[name].get(explanation) for name in poisons]
      for explanation in dict.fromkeys(key for name in poisons for key in terms[name])
    }
    values = {name: known for name, known in values.items() if any(v is not None for v in known)}
    found[victim] = [
      dataclasses.asdict(one)
      | {
        "values": dict(zip(poisons, values[one.explanation], strict=True)),
        "gaps": dict(zip(poisons, gaps, strict=True)),
      }
      for one in explanations.correlate(poisons, gaps, values)
    ]
  return found


def _terms(line: Row | None, clean: Row | None) -> dict[str, float | None]:
  """Returns what the measurement of a poison says, some of it compared with clean images."""
  line, clean = line or {}, clean or {}
  estimates, clean_estimates = (
    {information.named(row): row["mi"] for row in one.get("rows", ())} for one in (line, clean)
  )
  found = {
    f"MI gap, {name} (nats)": _difference(mi, estimates.get(name))
    for name, mi in clean_estimates.items()
  }
  fall = _difference(*(_theory(one, "after", "half_log_det") for one in (clean, line)))
  return found | {
    "fall of half ln det (nats)": fall,
    "distance of class means": _theory(line, "class_means", "after"),
    "perturbations separable (%)": _theory(line, "perturbations", "test_accuracy"),
    "poisoned images separable (%)": _theory(line, "images", "test_accuracy"),
  }


def _theory(line: Row, *keys: str) -> float | None:
  value = line.get("theory", [None])[0]
  for key in keys:
    value = value.get(key) if isinstance(value, Mapping) else None
  return value


def _difference(clean: float | None, poisoned: float | None) -> float | None:
  return None if clean is None or poisoned is None else clean - poisoned


def _first_loss(rows: Sequence[Row], method: str) -> float | None:
  """Returns the training loss after the first epoch, mean over seeds."""
  curves = [row.get("curve", {}).get("train_loss") for row in rows if row["method"] == method]
  first = [losses[0] for losses in curves if losses]
  return sum(first) / len(first) if first else None
