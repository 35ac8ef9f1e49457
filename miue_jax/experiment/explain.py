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
  """Rank correlations of every explanation with the accuracy gap of undefended victims.

  Args:
    axes: of the table; its controls are no poisons and do not count, nor do rows outside of it.
    rows: trained victims.
    measurements: of victims of the first seed, keyed as rows, with `rows` and `theory` as
      `measure.measured` returns them.

  Returns:
    By victim, for each explanation the fields of `explanations.Correlation`, and `values` and
    `gaps` (points) by poison, None where not known. Explanations of which no value is known are
    left out.
  """
  poisons = [name for name in axes.methods if name not in CONTROLS]
  seeds = axes.seeds.get("none", ())
  if not poisons or not seeds:
    return {}
  found = {}
  for victim in axes.victims:
    wanted = {"dataset": axes.dataset, "victim": victim, "defence": "none"}
    own = [row for row in rows if _matches(row, wanted) and row["seed"] in seeds]
    measured = {
      line["method"]: line for line in measurements if _matches(line, wanted | {"seed": seeds[0]})
    }
    gap_of = {condition.method: condition.gap for condition in aggregate(own)}
    gaps = [gap_of.get(name) for name in poisons]
    values = _information(measured, poisons) | _theory(measured, poisons)
    values["training loss after the first epoch (nats)"] = [
      _loss([row for row in own if row["method"] == name]) for name in poisons
    ]
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


def _matches(row: Row, wanted: Row) -> bool:
  return all(row.get(key) == value for key, value in wanted.items())


def _information(measured: Mapping[str, Row], poisons: Sequence[str]) -> dict[str, list]:
  """How much lower each estimate is than on clean images, nats."""
  estimates = {
    name: {information.named(row): row["mi"] for row in line["rows"]}
    for name, line in measured.items()
  }
  return {
    f"MI gap, {estimator} (nats)": [
      _difference(clean, estimates.get(name, {}).get(estimator)) for name in poisons
    ]
    for estimator, clean in estimates.get("clean", {}).items()
  }


def _theory(measured: Mapping[str, Row], poisons: Sequence[str]) -> dict[str, list]:
  """The terms of the theory and the rival explanations."""

  def at(name: str, *keys: str) -> float | None:
    value = measured[name]["theory"][0] if name in measured else None
    for key in keys:
      value = value.get(key) if isinstance(value, Mapping) else None
    return value

  clean = at("clean", "after", "half_log_det")
  return {
    "fall of half ln det (nats)": [
      _difference(clean, at(name, "after", "half_log_det")) for name in poisons
    ],
    "distance of class means": [at(name, "class_means", "after") for name in poisons],
    "perturbations separable (%)": [at(name, "perturbations", "test_accuracy") for name in poisons],
    "poisoned images separable (%)": [at(name, "images", "test_accuracy") for name in poisons],
  }


def _difference(clean: float | None, own: float | None) -> float | None:
  return None if clean is None or own is None else clean - own


def _loss(rows: Sequence[Row]) -> float | None:
  """Mean over seeds of what is left of the loss when an epoch has been learned."""
  first = [row["curve"]["train_loss"][0] for row in rows if row.get("curve", {}).get("train_loss")]
  return sum(first) / len(first) if first else None
