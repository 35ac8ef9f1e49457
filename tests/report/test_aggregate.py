"""Statistics over seeds against Python's `statistics` and numbers computed by hand."""

import math
import statistics

import pytest

from miue_jax.report.aggregate import Axes, aggregate, mean_curve, statistic


def test_mean_and_sample_standard_deviation_over_seeds(make_row):
  clean = [96.0, 97.0, 99.5]
  poisoned = [10.0, 13.0, 11.5]
  rows = [make_row("miue", a, s, seconds=20.0 + s) for s, a in enumerate(poisoned)]
  rows += [make_row("clean", a, s) for s, a in enumerate(clean)]
  first, second = aggregate(rows)
  assert (first.method, second.method) == ("clean", "miue")  # Clean leads in any order of rows.
  assert first.metrics["test_accuracy"].mean == pytest.approx(97.5)
  assert first.metrics["test_accuracy"].std == pytest.approx(statistics.stdev(clean))
  # (10 - 11.5)^2 + (13 - 11.5)^2 = 4.5, over n - 1 = 2.
  assert second.metrics["test_accuracy"].std == pytest.approx(1.5)
  assert second.metrics["seconds"].mean == pytest.approx(21.0)
  assert second.gap == pytest.approx(97.5 - 11.5)
  assert first.gap is None


def test_one_seed_has_no_spread():
  value = statistic([5.0])
  assert (value.mean, value.std, value.n) == (5.0, None, 1)


def test_values_that_are_not_finite_do_not_count(make_row):
  rows = [make_row("clean", a, s, auc=None) for s, a in enumerate([90.0, math.nan, 94.0])]
  (condition,) = aggregate(rows)
  assert condition.seeds == 3
  assert condition.metrics["test_accuracy"].n == 2
  assert condition.metrics["test_accuracy"].mean == 92.0
  assert condition.metrics["auc"] is None


def test_a_victim_trained_again_replaces_its_row(make_row):
  (condition,) = aggregate([make_row("clean", 50.0), make_row("clean", 90.0)])
  assert condition.seeds == 1
  assert condition.metrics["test_accuracy"].mean == 90.0


def test_the_gap_compares_within_one_victim_and_defence(make_row):
  rows = [
    make_row("clean", 90.0),
    make_row("miue", 20.0),
    make_row("clean", 80.0, defence="jpeg"),
    make_row("miue", 50.0, defence="jpeg"),
    make_row("miue", 30.0, victim="mlp"),
  ]
  gaps = {(c.victim, c.defence): c.gap for c in aggregate(rows) if c.method == "miue"}
  assert gaps[("small_cnn", "none")] == pytest.approx(70.0)
  assert gaps[("small_cnn", "jpeg")] == pytest.approx(30.0)
  assert gaps[("mlp", "none")] is None


def test_axes_choose_the_cells_and_keep_the_empty_ones(make_row):
  axes = Axes("digits", ("clean", "em"), ("small_cnn",), {"none": (0, 1), "jpeg10": (0,)})
  rows = [make_row("em", 20.0, 1), make_row("em", 30.0, 9), make_row("ap", 40.0)]
  failed = [make_row("em", None, seed) | {"reason": "No memory."} for seed in (0, 1)]
  found = {(c.method, c.defence): c for c in aggregate(rows, axes, failed)}
  assert list(found) == [("clean", "none"), ("em", "none"), ("clean", "jpeg10"), ("em", "jpeg10")]
  em = found["em", "none"]
  assert (em.seeds, em.wanted, em.losses) == (1, 2, ((0, "No memory."),))
  assert em.accuracy.mean == 20.0
  empty = found["clean", "jpeg10"]
  assert (empty.seeds, empty.wanted, empty.losses, empty.accuracy) == (0, 1, (), None)


def test_curves_of_unequal_length_average_over_the_seeds_that_are_there():
  curves = [
    {"epoch": [1, 2, 3], "test_accuracy": [10.0, 20.0, 30.0]},
    {"epoch": [1, 2], "test_accuracy": [14.0, math.nan]},
    {},
  ]
  points = mean_curve(curves, "test_accuracy")
  assert [epoch for epoch, _ in points] == [1, 2, 3]
  assert [value.mean for _, value in points] == pytest.approx([12.0, 20.0, 30.0])
  assert points[0][1].std == pytest.approx(math.sqrt(8.0))
  assert [value.std for _, value in points[1:]] == [None, None]
