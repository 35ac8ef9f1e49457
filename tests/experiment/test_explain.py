"""Explanations of the accuracy gap, from rows and measurements as the comparison writes them."""

import numpy as np
import pytest
from scipy import stats

from miue_jax.experiment import explain
from miue_jax.report import Axes

POISONS = ("a", "b", "c", "d", "e", "f")
AXES = Axes("set", ("clean", "random", *POISONS), ("linear", "mlp2"), {"none": (0, 1)})
RNG = np.random.default_rng(0)
ACCURACY = {name: 80.0 - 10 * i for i, name in enumerate(AXES.methods)}
MI = {name: 3 - 0.2 * i for i, name in enumerate(AXES.methods)}  # falls with the accuracy
TERMS = {name: RNG.standard_normal(4) for name in AXES.methods}


def row(method, seed, **changes):
  found = {
    "dataset": "set",
    "method": method,
    "victim": "linear",
    "defence": "none",
    "seed": seed,
    "test_accuracy": ACCURACY[method] + seed,
    "curve": {"train_loss": [TERMS[method][3] + seed, 9.0]},
  }
  return found | changes


def measurement(method, **changes):
  half, distance, separable, _ = TERMS[method]
  theory = {
    "method": method,
    "before": {"half_log_det": 0.0},
    "after": {"half_log_det": half},
    "class_means": {"before": 0.0, "after": distance},
    "perturbations": None if method == "clean" else {"test_accuracy": separable},
    "images": {"note": "Too few."} if method == "a" else {"test_accuracy": -separable},
  }
  rows = [{"method": method, "estimator": "knn", "mi": MI[method]}]
  return row(method, 0) | {"rows": rows, "theory": [theory]} | changes


ROWS = [row(method, seed) for method in AXES.methods for seed in (0, 1)]
MEASURED = [measurement(method) for method in AXES.methods]
OUTSIDE = ({"dataset": "other"}, {"defence": "jpeg10"}, {"seed": 7})


@pytest.fixture
def found():
  rows = ROWS + [row("a", 0) | change | {"test_accuracy": 0.0} for change in OUTSIDE]
  lines = MEASURED + [measurement("a", rows=[], theory=[{}], **change) for change in OUTSIDE]
  return {one["explanation"]: one for one in explain.by_victim(AXES, rows, lines)["linear"]}


def test_controls_are_no_poisons(found):
  for one in found.values():
    assert tuple(one["values"]) == tuple(one["gaps"]) == POISONS


def test_gaps_and_losses_are_means_over_seeds(found):
  for name in POISONS:
    loss = found["training loss after the first epoch (nats)"]
    assert loss["gaps"][name] == pytest.approx(ACCURACY["clean"] - ACCURACY[name])
    assert loss["values"][name] == pytest.approx(TERMS[name][3] + 0.5)


def test_falls_are_taken_from_clean_images(found):
  for name in POISONS:
    assert found["MI gap, knn (nats)"]["values"][name] == pytest.approx(MI["clean"] - MI[name])
    fall = found["fall of half ln det (nats)"]["values"][name]
    assert fall == pytest.approx(TERMS["clean"][0] - TERMS[name][0])


@pytest.mark.parametrize(
  ("explanation", "sign", "column"),
  [
    ("fall of half ln det (nats)", -1, 0),
    ("distance of class means", 1, 1),
    ("perturbations separable (%)", 1, 2),
    ("training loss after the first epoch (nats)", 1, 3),
  ],
)
def test_the_correlation_is_scipys(found, explanation, sign, column):
  gaps = [-ACCURACY[name] for name in POISONS]
  values = [sign * TERMS[name][column] for name in POISONS]
  one = found[explanation]
  assert one["rho"] == pytest.approx(stats.spearmanr(gaps, values).statistic)
  assert (one["n"], one["rows"]) == (6, POISONS)
  assert found["MI gap, knn (nats)"]["rho"] == pytest.approx(1)


def test_a_poison_without_a_value_does_not_count(found):
  one = found["poisoned images separable (%)"]
  assert one["values"]["a"] is None
  assert (one["n"], one["rows"]) == (5, POISONS[1:])


def test_what_nobody_measured_is_left_out():
  assert explain.by_victim(AXES, [], []) == {"linear": [], "mlp2": []}
  (loss,) = explain.by_victim(AXES, ROWS, [])["linear"]
  assert loss["explanation"] == "training loss after the first epoch (nats)"
  lone = [line for line in MEASURED if line["method"] != "clean"]
  names = {one["explanation"] for one in explain.by_victim(AXES, ROWS, lone)["linear"]}
  assert "fall of half ln det (nats)" not in names  # from what?
  assert "distance of class means" in names


@pytest.mark.parametrize(
  "change", [{"methods": ("clean", "random")}, {"seeds": {"jpeg10": (0,)}}], ids=str
)
def test_a_table_without_undefended_poisons_has_none(change):
  axes = Axes(
    **(
      {"dataset": "set", "methods": POISONS, "victims": ("linear",)}
      | {"seeds": AXES.seeds}
      | change
    )
  )
  assert explain.by_victim(axes, ROWS, MEASURED) == {}
