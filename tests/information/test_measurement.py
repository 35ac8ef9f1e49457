"""Tests rows of estimates and of the theory against closed forms and direct arguments."""

import json

import numpy as np
import pytest

from benchmarks import closed_forms
from miue_jax.information import measurement
from miue_jax.settings.errors import UserError

QUICK = {"bootstrap": 0, "null": 0, "projections": 8}


def row_of(name, x, y, **options):
  (row,) = measurement.estimates(x, y, {name: options})
  return row


def normal_pair(samples, features, rho, seed=0):
  """Returns features that correlate by `rho` one by one, so along every shared direction too."""
  x, noise = np.random.default_rng(seed).standard_normal((2, samples, features))
  return x, rho * x + np.sqrt(1 - rho**2) * noise


@pytest.fixture
def blobs():
  """Returns features `[400, 5]` of four classes, and their labels."""
  labels = np.repeat(np.arange(4), 100)
  centres = 10 * np.eye(4, 5)
  return centres[labels] + np.random.default_rng(1).standard_normal((400, 5)), labels


def test_values_without_repetitions_are_none():
  row = row_of("histogram", *normal_pair(500, 6, 0.8), bootstrap=0, null=0)
  assert row["estimator"] == "sliced histogram"
  assert row["mi"] > row["std"] > 0
  assert row["interval"] is row["null_mean"] is row["null_std"] is row["p_value"] is None


@pytest.mark.parametrize("name", ["kde", "knn", "gaussian"])
def test_slices_of_correlated_normals_have_the_information_of_one_pair(name):
  x, y = normal_pair(2000, 5, 0.75)
  row = row_of(name, x, y, **QUICK)
  assert row["estimator"] == f"sliced {name}"
  # k-NN errs by about 0.03 on 2,000 pairs, and slices of the same samples err together.
  assert row["mi"] == pytest.approx(closed_forms.bivariate_normal(0.75), abs=0.06)


def test_independent_directions_see_less_than_shared_ones():
  x, _ = normal_pair(3000, 3, 0)
  shared, independent = (
    row_of("gaussian", x, x, directions=directions, bootstrap=0, null=0)
    for directions in ("shared", "independent")
  )
  # The standard deviation over slices, divided by the root of their number, is the error.
  error = 5 * independent["std"] / np.sqrt(128)
  truth = closed_forms.sliced_identity_normal(3)
  assert independent["mi"] == pytest.approx(truth, abs=error)
  assert shared["mi"] > 10


@pytest.mark.long
def test_networks_see_all_features_at_once():
  x, y = normal_pair(600, 4, 0.9)
  row = row_of("infonce", x, y, **QUICK)
  assert row["estimator"] == "infonce"
  assert row["std"] is None
  # A bound on 120 held-out samples; four pairs have 3.3 nats and one has 0.83.
  assert closed_forms.bivariate_normal(0.9) < row["mi"] < 4 * closed_forms.bivariate_normal(0.9)


def test_one_feature_needs_no_slices():
  x, y = normal_pair(2000, 1, 0.75)
  rows = measurement.estimates(x, y, {"histogram": QUICK, "knn": QUICK})
  assert [row["estimator"] for row in rows] == ["histogram", "knn"]
  assert rows[0]["settings"]["bins"] == 16
  assert rows[1]["mi"] == pytest.approx(closed_forms.bivariate_normal(0.75), abs=0.06)


def test_rows_hold_interval_null_warnings_and_settings_as_json():
  x, y = normal_pair(100, 3, 0.9)
  row = row_of("histogram", x, y, projections=8, bootstrap=5, null=6, bins=20, seed=3)
  assert json.loads(json.dumps(row)) == row
  low, high = row["interval"]
  assert low < row["mi"] < high
  assert row["null_mean"] < row["mi"]
  assert row["p_value"] == pytest.approx(1 / 7, abs=1e-5)
  assert "occupied bins are many for 100 samples" in row["warnings"][0]
  assert row["settings"]["inner"] == {"bins": 20, "correction": "none"}
  assert (row["settings"]["bootstrap"], row["settings"]["null"]) == (5, 6)
  assert row["settings"]["projections"] == 8
  assert row["settings"]["seed"] == 3


def test_the_row_of_an_estimator_that_fails_says_why():
  x, y = normal_pair(60, 2, 0.5)
  options = {"mine": QUICK, "gaussian": QUICK}
  with pytest.raises(UserError, match="60 samples are too few"):
    measurement.estimates(x, y, options)
  failed, fine = measurement.estimates(x, y, options, keep_going=True)
  assert failed["mi"] is None
  assert "60 samples are too few to train on" in failed["warnings"][0]
  assert fine == row_of("gaussian", x, y, **QUICK)
  assert failed.keys() == fine.keys()


def test_geometry_before_and_after(blobs):
  features, labels = blobs
  found = measurement.geometry(features, features / 2, labels, seed=0)
  # Halving five features takes ln 4 from each of five eigenvalues' logarithms; no angle changes.
  for before, after in (
    (found["before"], found["after"]),
    *((one["before"], one["after"]) for one in found["classes"]),
  ):
    fall = before["half_log_det"] - after["half_log_det"]
    assert fall == pytest.approx(5 * np.log(2), abs=1e-4)
  for name in ("intra_cosine", "inter_cosine", "effective_rank", "divergence"):
    assert found["after"][name] == pytest.approx(found["before"][name], abs=1e-4)
  assert found["before"]["intra_cosine"] > 0.9
  assert abs(found["before"]["inter_cosine"]) < 0.1
  assert [(one["label"], one["samples"]) for one in found["classes"]] == [
    (i, 100) for i in range(4)
  ]
  for one in found["classes"]:
    # Five features have five eigenvalues, near one; halving features quarters them.
    assert one["before"]["spectrum"] == sorted(one["before"]["spectrum"], reverse=True)
    assert sum(one["before"]["spectrum"]) == pytest.approx(one["before"]["trace"], rel=1e-3)
    # Each variance is one, with a standard deviation of sqrt(2 / 100).
    assert one["before"]["trace"] == pytest.approx(5, abs=4 * np.sqrt(5 * 2 / 100))
    quarters = np.divide(one["before"]["spectrum"], 4)
    np.testing.assert_allclose(one["after"]["spectrum"], quarters, rtol=1e-3)
  assert found["skipped"] == []
  assert json.loads(json.dumps(found)) == found


def test_too_few_examples_for_a_covariance_are_a_note(blobs):
  features, _ = blobs
  found = measurement.geometry(features[:10], features[:10], np.arange(10) // 2, seed=0)
  assert list(found) == ["note"]
  assert "measure more images" in found["note"]
