"""Tests interval, null, checks and settings of every estimator, and slices."""

import dataclasses
import doctest
import functools
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import closed_forms, tasks
from miue_jax import information
from miue_jax.information import ESTIMATORS, OPTIONS, estimators, mutual_information
from miue_jax.information.samples import Point
from miue_jax.settings.errors import UserError

POINTWISE = ("histogram", "kde", "knn", "gaussian")
QUIET = {"bootstrap": 0, "null": 0}
SHRUNK = {"covariance": "ledoit_wolf"}


def pair(rho=0.75, samples=600, seed=0, features=1):
  covariance = tasks.paired(features, rho, features)
  return tasks.normal("", covariance).draw(np.random.default_rng(seed), samples)


def test_there_is_one_call_for_each_estimator():
  assert set(ESTIMATORS) == {
    *("histogram", "kde", "knn", "mine", "infonce", "nwj", "gaussian", "sliced")
  }


@pytest.mark.parametrize("name", POINTWISE)
def test_a_result_carries_everything_needed_to_judge_it(name):
  x, y = pair()
  found = ESTIMATORS[name](x, y, seed=3)
  assert (found.estimator, found.samples, found.features) == (name, 600, (1, 1))
  assert found.interval[0] < found.mi < found.interval[1]
  # 20 shuffles of 600 pairs: dependence of 0.41 nats is far from all of them.
  assert found.mi > found.null.mean + 5 * found.null.std
  assert found.null.p_value == pytest.approx(1 / 21)
  assert found.settings["seed"] == 3
  assert {"bootstrap", "null", "confidence"} < set(found.settings)
  assert ESTIMATORS[name](x, y, seed=3) == found
  json.dumps(dataclasses.asdict(found), allow_nan=False)


@pytest.mark.parametrize("name", POINTWISE)
def test_independent_samples_are_not_called_dependent(name):
  x, y = pair(rho=0.0, samples=400, seed=1)
  found = ESTIMATORS[name](x, y, null=40)
  assert abs(found.mi - found.null.mean) < 4 * found.null.std
  assert found.null.p_value > 0.05
  assert "do not show" in found.warnings[-1]


def test_repetitions_of_zero_are_left_out():
  found = ESTIMATORS["histogram"](*pair(), **QUIET)
  assert found.interval is found.null is None


def test_the_interval_has_the_standard_error_of_the_estimator():
  # For normal data the estimate's standard deviation is rho / sqrt(samples) (delta method).
  rho, samples = 0.6, 900
  x, y = pair(rho, samples)
  found = ESTIMATORS["gaussian"](x, y, bootstrap=400, null=0)
  width = (found.interval[1] - found.interval[0]) / 2
  assert width == pytest.approx(1.966 * rho / np.sqrt(samples), rel=0.15)


def test_the_interval_covers_the_truth_as_often_as_it_says():
  rho = 0.5
  truth = closed_forms.bivariate_normal(rho)
  covered = 0
  for seed in range(100):
    low, high = ESTIMATORS["gaussian"](*pair(rho, 200, seed), null=0, seed=seed).interval
    covered += low < truth < high
  # Binomial(100, 0.95) is at least 88 with probability 0.996.
  assert covered >= 88


def test_halves_hold_no_sample_twice(monkeypatch):
  seen = []

  def watched(x, y):
    seen.append(x[:, 0])
    return Point(0.0)

  monkeypatch.setitem(estimators.POINTS, "knn", watched)
  x = np.arange(41.0)[:, None]
  ESTIMATORS["knn"](x, x, bootstrap=3, null=2)
  assert [len(rows) for rows in seen] == [41, 20, 20, 20, 41, 41]
  assert all(len(np.unique(rows)) == len(rows) for rows in seen)


def test_the_null_shuffles_pairs_and_keeps_margins(monkeypatch):
  seen = []

  def watched(x, y):
    seen.append((x, y))
    return Point(0.0)

  monkeypatch.setitem(estimators.POINTS, "knn", watched)
  x = np.arange(30.0)[:, None]
  ESTIMATORS["knn"](x, x, bootstrap=0, null=3)
  for shuffled_x, shuffled_y in seen[1:]:
    np.testing.assert_array_equal(shuffled_x, x)
    assert (shuffled_y != x).any()
    np.testing.assert_array_equal(np.sort(shuffled_y, axis=0), x)


@pytest.mark.parametrize(
  ("x", "y", "message"),
  [
    (np.zeros((9, 2)), np.zeros((8, 2)), "9 samples and y has 8"),
    (np.zeros(9), np.zeros(9), r"\[samples, features\]"),
    (np.zeros((9, 0)), np.zeros((9, 1)), r"\[samples, features\]"),
    (np.zeros((7, 1)), np.zeros((7, 1)), "too few"),
    (np.full((9, 1), np.nan), np.zeros((9, 1)), "x holds NaN"),
    (np.zeros((9, 1)), np.full((9, 1), -np.inf), "y holds NaN or infinity"),
    (np.zeros((9, 1), complex), np.zeros((9, 1)), "x is complex128"),
    (np.array([["a"]] * 9), np.zeros((9, 1)), "convert it to float32"),
    (np.array([[None]] * 9), np.zeros((9, 1)), "convert it to float32"),
  ],
)
@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_bad_input_is_one_clear_sentence(name, x, y, message):
  with pytest.raises(UserError, match=message):
    ESTIMATORS[name](x, y)


@pytest.mark.parametrize("name", POINTWISE)
@pytest.mark.parametrize("kind", [np.int8, np.uint32, bool, np.float16, jnp.bfloat16])
def test_other_number_types_give_the_same(name, kind):
  x = np.random.default_rng(0).integers(0, 2, (200, 1))
  y = x ^ (np.random.default_rng(1).random((200, 1)) < 0.1)
  expected = ESTIMATORS[name](x.astype(float), y.astype(float), **QUIET)
  found = ESTIMATORS[name](x.astype(kind), jnp.asarray(y).astype(kind), **QUIET)
  assert found.mi == pytest.approx(expected.mi, abs=1e-6)
  assert "repeat another row" in found.warnings[0]


@pytest.mark.parametrize("name", POINTWISE)
def test_constant_features_carry_nothing(name):
  x = np.random.default_rng(0).standard_normal((100, 1))
  assert abs(ESTIMATORS[name](x, np.full((100, 1), 3), **QUIET).mi) < 1e-9


def test_distinct_rows_are_not_called_repeated():
  rng = np.random.default_rng(0)
  relu = np.maximum(rng.standard_normal((300, 14)), 0)  # zeros in every column
  assert not ESTIMATORS["gaussian"](relu, relu + rng.random((300, 14)), **QUIET).warnings


@pytest.mark.parametrize("name", ["kde", "knn", "gaussian"])
def test_long_tails_carry_a_warning(name):
  x, y = tasks.student("", tasks.paired(1, 0.0), 1).draw(np.random.default_rng(0), 3000)
  warned = ESTIMATORS[name](x, np.arcsinh(y), **QUIET).warnings
  assert len(warned) == 1
  assert re.match("x holds a value .* standard deviations", warned[0])


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"bin": 4}, "Unknown setting bin; did you mean bins?"),
    ({"neighbours": 4}, "Unknown setting neighbours; known: bins, correction"),
    ({"bootstrap": 1}, "at least 2"),
    ({"null": -1}, "at least 2"),
    ({"bootstrap": 2.5}, "at least 2"),
    ({"seed": -1}, "seed is -1: use at least 0, an integer"),
    ({"seed": 1.5}, r"seed is 1\.5: use at least 0, an integer"),
    ({"confidence": 1.0}, "between 0 and 1"),
  ],
)
def test_unfit_settings_are_refused(settings, message):
  with pytest.raises(UserError, match=message):
    ESTIMATORS["histogram"](*pair(), **settings)


def test_samples_too_few_for_halves_are_explained():
  with pytest.raises(UserError, match="set bootstrap to 0"):
    ESTIMATORS["histogram"](*pair(samples=20))


@pytest.mark.parametrize("samples", [1000, 4000])
@pytest.mark.parametrize("d", [2, 3, 16, 128])
def test_sliced_identity_normal_along_independent_directions(d, samples):
  # 4,000 slices of standard deviation about truth * sqrt(2) (for d > 2; 0.8 for d = 2) and a
  # Gaussian estimate per slice, unbiased and with its errors averaged over slices.
  x = np.random.default_rng(d).standard_normal((samples, d))
  found = ESTIMATORS["sliced"](
    x, x, estimator="gaussian", projections=4000, directions="independent", **QUIET
  )
  truth = closed_forms.sliced_identity_normal(d)
  spread = found.details["std_over_slices"] / np.sqrt(4000)
  assert found.mi == pytest.approx(truth, abs=4 * spread + 1e-3)
  assert found.details["directions"] == "independent between x and y"


@pytest.mark.parametrize(("name", "tolerance"), [("histogram", 0.05), ("gaussian", 0.02)])
def test_shared_slices_of_equally_correlated_features(name, tolerance):
  # Every direction has the same correlation. 16 bins cost 0.02 nats and add 0.01 of bias.
  x, y = pair(0.75, 10_000, features=8)
  found = ESTIMATORS["sliced"](x, y, estimator=name, projections=200, **QUIET)
  truth = closed_forms.bivariate_normal(0.75)
  assert found.mi == pytest.approx(truth, abs=tolerance)
  assert found.details["directions"] == "shared between x and y"


@pytest.mark.parametrize("name", ["knn", "kde"])
def test_any_estimator_can_be_sliced(name):
  x, y = pair(0.75, 800, features=3)
  found = ESTIMATORS["sliced"](x, y, estimator=name, projections=5, **QUIET)
  assert found.mi == pytest.approx(closed_forms.bivariate_normal(0.75), abs=0.1)
  assert found.details["inner"] == estimators._complete(estimators.POINTS[name], {}, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "inner"), [("kde", {}), ("histogram", {}), ("gaussian", {}), ("gaussian", SHRUNK)]
)
@pytest.mark.parametrize("directions", estimators.DIRECTIONS)
def test_slices_together_are_slices_one_after_the_other(name, inner, directions, monkeypatch):
  x, y = pair(0.75, 300, features=4)
  sliced = functools.partial(
    ESTIMATORS["sliced"], x, y, estimator=name, projections=9, directions=directions, inner=inner
  )
  together = sliced(**QUIET), sliced(statistic="max", **QUIET)
  monkeypatch.setattr(estimators, "_COLUMNS", {})
  for one, other in zip(together, (sliced(**QUIET), sliced(statistic="max", **QUIET)), strict=True):
    # Histograms in float32 may put a sample on a border into the next bin.
    assert one.mi == pytest.approx(other.mi, abs=5e-3 if name == "histogram" else 1e-5)
    assert one.warnings == other.warnings
    assert one.settings == other.settings


def test_the_largest_slice_is_chosen_on_other_samples():
  rng = np.random.default_rng(0)
  x, y = rng.standard_normal((2, 400, 10))
  settings = {"estimator": "gaussian", "projections": 500, "directions": "independent"}
  every = [
    ESTIMATORS["sliced"](x, y, statistic="max", seed=seed, **settings, **QUIET).mi
    for seed in range(20)
  ]
  # The best of 500 independent slices on the same samples would show about
  # chi-squared's 1 - 1/500 quantile / (2 * 200) = 0.024 each time; held out, chance is gone.
  assert np.mean(every) < 0.005
  y[:, 0] = x[:, 0]
  largest = ESTIMATORS["sliced"](x, y, statistic="max", **settings, **QUIET).mi
  assert largest > 3 * ESTIMATORS["sliced"](x, y, **settings, **QUIET).mi


def test_a_slice_reports_the_warnings_of_its_estimator():
  x, y = pair(samples=300, features=2)
  found = ESTIMATORS["sliced"](x, y, projections=3, inner={"bins": 40}, **QUIET)
  assert re.match("In one slice: .* occupied bins are many for 300 samples", found.warnings[0])


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"estimator": "sliced"}, "estimator is 'sliced'"),
    ({"directions": "x"}, "directions is 'x'"),
    ({"statistic": "x"}, "statistic is 'x'"),
    ({"projections": 0}, "projections is 0"),
    ({"projections": 2.5}, r"projections is 2\.5: use at least 1, an integer"),
    ({"inner": {"neighbours": 3}}, "Unknown setting neighbours; known: bins"),
  ],
)
def test_unfit_settings_of_slices_are_refused(settings, message):
  x, y = pair(features=2)
  with pytest.raises(UserError, match=message):
    ESTIMATORS["sliced"](x, y, **settings)


def test_directions_cannot_be_shared_between_different_numbers_of_features():
  x, y = pair(features=3)
  with pytest.raises(UserError, match="set directions to independent"):
    ESTIMATORS["sliced"](x, y[:, :2])
  assert ESTIMATORS["sliced"](x, y[:, :2], directions="independent", projections=5, **QUIET).mi > 0


@pytest.mark.parametrize("name", POINTWISE)
def test_many_features_are_projected_and_one_is_not(name):
  x, y = pair(0.75, 1000, features=4)
  settings = {"projections": 20, "seed": 3} | QUIET
  found = mutual_information(x, y, name, **settings)
  assert found == ESTIMATORS["sliced"](x, y, estimator=name, inner={}, **settings)
  # k-NN and KDE err by about 0.04 on 1,000 pairs, and slices of the same samples err together.
  assert found.mi == pytest.approx(closed_forms.bivariate_normal(0.75), abs=0.1)
  one = x[:, :1], y[:, :1]
  assert mutual_information(*one, name, **QUIET) == ESTIMATORS[name](*one, **QUIET)


def test_networks_see_all_features(monkeypatch):
  seen = []

  def watched(x, y, *, critic_steps=1):
    seen.append((x.shape, y.shape, critic_steps))
    return Point(0.0)

  monkeypatch.setitem(estimators.POINTS, "mine", watched)
  x, y = pair(features=3)
  assert mutual_information(x, y[:, :2], "mine", critic_steps=7, **QUIET).estimator == "mine"
  assert seen == [((600, 3), (600, 2), 7)]


def test_every_option_reaches_its_estimator():
  x, y = pair(0.8, 200, features=3)
  slicing = {"projections": 4, "directions": "independent", "statistic": "max"}
  for name, own in {
    "histogram": {"bins": 9, "correction": "miller_madow"},
    "kde": {"bandwidth": "silverman"},
    "knn": {"neighbours": 5},
    "gaussian": SHRUNK,
  }.items():
    shared = {"bootstrap": 0, "null": 2, "confidence": 0.9, "seed": 4}
    assert {*slicing, *own, *shared} == {*OPTIONS[name]}
    found = mutual_information(x, y, name, **slicing, **own, **shared)
    assert own.items() <= found.settings["inner"].items()
    assert (slicing | shared).items() <= found.settings.items()


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("histogramm", {}, "estimator is 'histogramm': set it to one of histogram, kde"),
    ("sliced", {}, "estimator is 'sliced': set it to one of"),
    ("histogram", {"bin": 4}, "Unknown setting bin; did you mean bins?"),
    ("knn", {"projection": 4}, "Unknown setting projection; did you mean projections?"),
    ("gaussian", {"k": 4}, "Unknown setting k; known: projections, directions, statistic"),
  ],
)
def test_the_nearest_known_name_is_suggested(name, options, message):
  with pytest.raises(UserError, match=re.escape(message)):
    mutual_information(*pair(features=2), name, **options)


def test_examples_of_the_documentation_run():
  for module in (information, estimators):
    result = doctest.testmod(module)
    assert result.failed == 0 < result.attempted
