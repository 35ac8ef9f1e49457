import math
import statistics

import numpy as np
import pytest

from miue_jax.report.aggregate import aggregate, mean_curve, statistic
from miue_jax.settings.errors import UserError


def test_mean_and_sample_standard_deviation_over_seeds(make_row):
  clean = [96.0, 97.0, 99.5]
  poisoned = [10.0, 13.0, 11.5]
  rows = [make_row("miue", a, s, seconds=20.0 + s) for s, a in enumerate(poisoned)]
  rows += [make_row("clean", a, s) for s, a in enumerate(clean)]
  first, second = aggregate(rows)
  assert (first.method, second.method) == ("clean", "miue")  # clean leads whatever came first
  assert first.metrics["test_accuracy"].mean == pytest.approx(97.5)
  assert first.metrics["test_accuracy"].std == pytest.approx(statistics.stdev(clean))
  # (10 - 11.5)^2 + (13 - 11.5)^2 = 4.5, over n - 1 = 2.
  assert second.metrics["test_accuracy"].std == pytest.approx(1.5)
  assert second.metrics["seconds"].mean == pytest.approx(21.0)
  assert second.fall == pytest.approx(97.5 - 11.5)
  assert first.fall is None


def test_one_seed_has_no_spread():
  value = statistic([5.0])
  assert (value.mean, value.std, value.n) == (5.0, None, 1)


def test_values_that_are_not_numbers_do_not_count(make_row):
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


def test_fall_compares_within_one_victim_and_defence(make_row):
  rows = [
    make_row("clean", 90.0),
    make_row("miue", 20.0),
    make_row("clean", 80.0, defence="jpeg"),
    make_row("miue", 50.0, defence="jpeg"),
    make_row("miue", 30.0, victim="mlp"),
  ]
  falls = {(c.victim, c.defence): c.fall for c in aggregate(rows) if c.method == "miue"}
  assert falls[("small_cnn", "none")] == pytest.approx(70.0)
  assert falls[("small_cnn", "jpeg")] == pytest.approx(30.0)
  assert falls[("mlp", "none")] is None


def test_a_row_without_its_identity_is_named(make_row):
  broken = make_row("clean", 90.0)
  del broken["victim"]
  with pytest.raises(UserError, match=r"Row 2 .* no 'victim'"):
    aggregate([make_row("clean", 90.0), broken])


def test_curves_of_unequal_length_average_over_the_seeds_that_are_there():
  curves = [
    {"epoch": [1, 2, 3], "test_accuracy": [10.0, 20.0, 30.0]},
    {"epoch": [1, 2], "test_accuracy": [14.0, math.nan]},
    {},
  ]
  epochs, mean, std = mean_curve(curves, "test_accuracy")
  np.testing.assert_array_equal(epochs, [1, 2, 3])
  np.testing.assert_allclose(mean, [12.0, 20.0, 30.0])
  np.testing.assert_allclose(std, [math.sqrt(8.0), 0.0, 0.0])
