"""What `measure` computes from features, against closed forms and what can be seen by eye."""

import json

import numpy as np
import pytest

from benchmarks import closed_forms
from miue_jax.information import ESTIMATORS, histogram, measurement
from miue_jax.settings import config
from miue_jax.settings.config import Measure
from miue_jax.settings.errors import UserError

QUICK = {"bootstrap": 0, "null": 0, "projections": 8}


def normal_pair(samples, features, rho, seed=0):
  """Features that correlate by `rho` one by one, so along every shared direction as well."""
  x, noise = np.random.default_rng(seed).standard_normal((2, samples, features))
  return x, rho * x + np.sqrt(1 - rho**2) * noise


@pytest.fixture
def blobs():
  """Features `[400, 5]` of four classes, and their labels."""
  labels = np.repeat(np.arange(4), 100)
  centres = 10 * np.eye(4, 5)
  return centres[labels] + np.random.default_rng(1).standard_normal((400, 5)), labels


def test_the_default_is_the_histogram_of_old_measurements():
  x, y = normal_pair(500, 6, 0.8)
  settings = Measure(bootstrap=0, null=0)
  (row,) = measurement.estimates(x, y, settings)
  old = histogram.sliced(x, y, projections=128, bins=16, seed=0)
  assert (row["estimator"], row["mi"], row["std"]) == (
    "sliced histogram",
    round(old.mi, 5),
    round(old.std, 5),
  )
  assert row["interval"] is row["null_mean"] is row["null_std"] is row["p_value"] is None


@pytest.mark.parametrize("name", ["kde", "knn", "gaussian"])
def test_slices_of_correlated_normals_have_the_information_of_one_pair(name):
  x, y = normal_pair(2000, 5, 0.75)
  (row,) = measurement.estimates(x, y, Measure(estimators=(name,), **QUICK))
  assert row["estimator"] == f"sliced {name}"
  # k-NN errs by about 0.03 on 2,000 pairs, and slices of the same samples err together.
  assert row["mi"] == pytest.approx(closed_forms.bivariate_normal(0.75), abs=0.06)


def test_independent_directions_see_less_than_shared_ones():
  x, _ = normal_pair(3000, 3, 0)
  shared, independent = (
    measurement.estimates(
      x, x, Measure(estimators=("gaussian",), directions=directions, bootstrap=0, null=0)
    )[0]
    for directions in ("shared", "independent")
  )
  # The standard deviation over slices, divided by the root of their number, is the error.
  error = 5 * independent["std"] / np.sqrt(128)
  truth = closed_forms.sliced_identity_normal(3)
  assert independent["mi"] == pytest.approx(truth, abs=error)
  assert shared["mi"] > 10


@pytest.mark.slow
def test_networks_see_all_features_at_once():
  x, y = normal_pair(600, 4, 0.9)
  (row,) = measurement.estimates(x, y, Measure(estimators=("infonce",), **QUICK))
  assert row["estimator"] == "infonce"
  assert row["std"] is None
  # A bound on 120 held-out samples; four pairs have 3.3 nats and one has 0.83.
  assert closed_forms.bivariate_normal(0.9) < row["mi"] < 4 * closed_forms.bivariate_normal(0.9)


def test_one_feature_needs_no_slices():
  x, y = normal_pair(2000, 1, 0.75)
  rows = measurement.estimates(x, y, Measure(estimators=("histogram", "knn"), **QUICK))
  assert [row["estimator"] for row in rows] == ["histogram", "knn"]
  assert rows[0]["settings"]["bins"] == 16
  assert rows[1]["mi"] == pytest.approx(closed_forms.bivariate_normal(0.75), abs=0.06)


@pytest.mark.parametrize(
  ("name", "changed", "own"),
  [
    ("histogram", {"bins": 9, "correction": "miller_madow"}, {}),
    ("kde", {"bandwidth": "silverman", "bandwidth_scale": 0.5}, {"scale": 0.5}),
    ("knn", {"neighbours": 5, "variant": 2}, {"k": 5}),
    ("gaussian", {"covariance": "ledoit_wolf"}, {}),
    ("mine", {"critic_steps": 7, "critic_batch": 16}, {"steps": 7, "batch": 16}),
  ],
)
def test_every_setting_of_the_config_reaches_its_estimator(name, changed, own):
  x, y = normal_pair(200, 3, 0.8)
  sliced = {"statistic": "max", "slice_dimensions": 2, "directions": "independent"}
  settings = Measure(estimators=(name,), **QUICK, **changed, **sliced)
  (row,) = measurement.estimates(x, y, settings)
  renamed = ("bandwidth_scale", "neighbours", "critic_steps", "critic_batch")
  wanted = {key: value for key, value in changed.items() if key not in renamed} | own
  if name == "mine":  # which sees all features at once
    assert wanted.items() <= row["settings"].items()
    return
  assert wanted.items() <= row["settings"]["inner"].items()
  assert (row["settings"]["statistic"], row["settings"]["k"]) == ("max", 2)
  assert row["settings"]["directions"] == "independent between x and y"


def test_rows_hold_interval_null_warnings_and_settings_as_json():
  x, y = normal_pair(100, 3, 0.9)
  settings = Measure(projections=8, bootstrap=5, null=6, bins=20, seed=3)
  (row,) = measurement.estimates(x, y, settings)
  assert json.loads(json.dumps(row)) == row
  low, high = row["interval"]
  assert low < row["mi"] < high
  assert row["null_mean"] < row["mi"]
  assert row["p_value"] == pytest.approx(1 / 7, abs=1e-5)
  assert "occupied bins are many for 100 samples" in row["warnings"][0]
  assert row["settings"]["inner"] == {"bins": 20, "correction": "none"}
  assert (row["settings"]["bootstrap"], row["settings"]["null"]) == (5, 6)
  assert row["settings"]["slices"] == 8
  assert row["settings"]["seed"] == 3


def test_an_estimator_that_fails_says_why_beside_the_others():
  x, y = normal_pair(60, 2, 0.5)
  settings = Measure(estimators=("mine", "gaussian"), **QUICK)
  with pytest.raises(UserError, match="60 samples are too few"):
    measurement.estimates(x, y, settings)
  failed, fine = measurement.attempted(x, y, settings)
  assert failed["mi"] is None
  assert "60 samples are too few to train on" in failed["warnings"][0]
  assert [fine] == measurement.estimates(x, y, Measure(estimators=("gaussian",), **QUICK))
  assert failed.keys() == fine.keys()


def test_every_name_of_the_config_is_measured(monkeypatch):
  called = []

  def recorded(name):
    def estimator(x, y, **settings):
      called.append((name, settings.get("estimator")))
      return ESTIMATORS["gaussian"](x, y, bootstrap=0, null=0)

    return estimator

  names = {name: recorded(name) for name in ESTIMATORS}
  monkeypatch.setattr(measurement, "ESTIMATORS", names)
  measurement.estimates(*normal_pair(100, 2, 0.5), Measure(estimators=config.ESTIMATORS))
  sliced = [("sliced", name) for name in ("histogram", "kde", "knn", "gaussian")]
  assert called == [*sliced, ("mine", None), ("infonce", None), ("nwj", None)]


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


def images_of(labels, size=4):
  return np.full((len(labels), size, size, 1), 100, np.uint8)


def test_class_wise_perturbations_are_separable_and_noise_is_not():
  rng, labels = np.random.default_rng(0), np.repeat(np.arange(4), 100)
  clean = images_of(labels)
  patterns = rng.integers(-8, 9, (4, 4, 4, 1))
  noise = rng.integers(-8, 9, clean.shape)
  by_class, by_chance = (
    measurement.separable((clean + delta).astype(np.uint8), clean, labels=labels, seed=0)
    for delta in (patterns[labels], noise)
  )
  assert by_class["test_accuracy"] == 100
  assert by_class["chance"] == 25
  assert by_chance["test_accuracy"] < 45  # 100 held out: four standard deviations above chance


def test_images_themselves_are_judged_without_clean_ones():
  labels = np.repeat(np.arange(4), 100)
  grain = np.random.default_rng(0).integers(0, 9, (400, 4, 4, 1), np.uint8)
  for shade, low, high in ((0, 0, 45), (20, 99, 100)):
    images = images_of(labels) + grain + shade * labels[:, None, None, None].astype(np.uint8)
    found = measurement.separable(images, labels=labels, seed=0)
    assert low <= found["test_accuracy"] <= high


def test_unchanged_images_have_no_perturbations():
  labels = np.repeat(np.arange(2), 10)
  images = images_of(labels)
  assert measurement.separable(images, images, labels=labels, seed=0) is None


def test_perturbations_of_too_few_examples_are_a_note():
  labels = np.arange(4)
  images = images_of(labels)
  found = measurement.separable(images + 1, images, labels=labels, seed=0)
  assert list(found) == ["note"]
  assert "at least 4 examples" in found["note"]


def test_large_images_are_fewer(monkeypatch):
  monkeypatch.setattr(measurement, "_PIXELS", 16 * 80)
  labels = np.repeat(np.arange(4), 100)
  shaded = images_of(labels) + labels[:, None, None, None].astype(np.uint8)
  found = measurement.separable(shaded, images_of(labels), labels=labels, seed=0)
  assert found["train_samples"] + found["test_samples"] == 80


def test_files_are_measured_on_the_same_rows(tmp_path):
  x, y = normal_pair(500, 2, 0.9)
  paths = tmp_path / "x.npz", tmp_path / "y.npz"
  np.savez(paths[0], x)
  np.savez(paths[1], clean=x, released=y)
  settings = Measure(estimators=("gaussian",), samples=300, **QUICK)
  found = measurement.between_files(*paths, settings, ("", "released"))
  assert (found["settings"]["samples"], found["settings"]["of"]) == (300, 500)
  # Rows that were drawn apart would be independent.
  assert found["rows"][0]["mi"] == pytest.approx(closed_forms.bivariate_normal(0.9), abs=0.2)
  np.savez(paths[1], y[:-1])
  with pytest.raises(UserError, match="row i of both"):
    measurement.between_files(*paths, settings)
