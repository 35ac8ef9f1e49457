"""Transferred perturbations, and measurements of images and of files."""

import dataclasses
import typing

import numpy as np
import pytest

from benchmarks import closed_forms
from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.images import LazyImages
from miue_jax.experiment import measure
from miue_jax.information import ESTIMATORS, mutual_information
from miue_jax.settings import config
from miue_jax.settings.config import Measure
from miue_jax.settings.errors import UserError

RNG = np.random.default_rng(0)


def split(labels):
  images = RNG.integers(0, 256, (len(labels), 4, 4, 3), np.uint8)
  return Split(images, np.asarray(labels, np.int32))


DATASET = Dataset("some", split([0, 0, 1, 1, 1]), split([1, 0, 1, 0, 0, 1]), ("a", "b"))


def lazy(images):
  return LazyImages(lambda ids: images[ids], len(images), "some")


def test_test_images_get_a_change_of_their_class():
  train, test = DATASET.train, DATASET.test
  changes = 3 * np.arange(5)[:, None, None, None]  # says which image it is of
  released = Split(np.minimum(train.images[:] + changes, 255).astype(np.uint8), train.labels)
  found = measure.transferred(DATASET, released, seed=0)
  assert found.labels is test.labels
  origins = []
  for image, clean, label in zip(found.images, test.images, test.labels, strict=True):
    candidates = [
      i
      for i in np.flatnonzero(train.labels == label)
      if np.array_equal(
        image,
        np.clip(clean + released.images[i].astype(int) - train.images[i], 0, 255),
      )
    ]
    assert len(candidates) == 1
    origins += candidates
  assert len(set(origins)) > 2  # not always the first one
  np.testing.assert_array_equal(found.images, measure.transferred(DATASET, released, seed=0).images)
  assert (found.images[:] != measure.transferred(DATASET, released, seed=1).images).any()


def test_unchanged_training_images_transfer_nothing():
  found = measure.transferred(DATASET, DATASET.train, seed=0)
  np.testing.assert_array_equal(found.images, DATASET.test.images)


def test_images_that_are_read_from_files_stay_so():
  train = DATASET.train
  released = Split(np.minimum(train.images[:], 200), train.labels)
  whole = measure.transferred(DATASET, released, seed=0).images
  parts = Split(lazy(DATASET.test.images), DATASET.test.labels)
  read = measure.transferred(Dataset("some", train, parts, ("a", "b")), released, seed=0).images
  assert not read.in_memory
  np.testing.assert_array_equal(read[2:5], whole[2:5])
  np.testing.assert_array_equal(read[np.array([5, 0])], whole[[5, 0]])


def test_a_class_without_training_images_is_named():
  alone = Dataset("some", split([0, 0, 0]), DATASET.test, ("a", "b"))
  with pytest.raises(UserError, match="Class 'b' has test images but no training images"):
    measure.transferred(alone, alone.train, seed=0)


def test_every_setting_of_an_estimator_is_an_option():
  changed = {
    "histogram": {"bins": 9, "correction": "miller_madow"},
    "kde": {"bandwidth": "silverman"},
    "knn": {"neighbours": 5},
    "gaussian": {"covariance": "ledoit_wolf"},
    "mine": {"critic_steps": 7},
  }
  shared = {"projections": 5, "directions": "independent", "statistic": "max"}
  shared |= {"bootstrap": 4, "null": 6, "seed": 2}
  own = {key: value for options in changed.values() for key, value in options.items()}
  settings = Measure(estimators=tuple(changed), **own, **shared)
  assert measure.options(settings) == {name: changed[name] | shared for name in changed}


def test_every_estimator_of_the_settings_is_known():
  names = typing.get_args(config.Estimator)
  assert set(names) == set(ESTIMATORS) - {"sliced"}
  default = measure.options(Measure())["histogram"]
  x, noise = RNG.standard_normal((2, 200, 3))
  # The settings have the defaults of the estimators.
  found, expected = mutual_information(x, x + noise, **default), mutual_information(x, x + noise)
  assert dataclasses.replace(found, settings=expected.settings) == expected


def images_of(labels, size=4):
  return np.full((len(labels), size, size, 1), 100, np.uint8)


def test_class_wise_perturbations_are_separable_and_noise_is_not():
  rng, labels = np.random.default_rng(0), np.repeat(np.arange(4), 100)
  clean = images_of(labels)
  patterns = rng.integers(-8, 9, (4, 4, 4, 1))
  noise = rng.integers(-8, 9, clean.shape)
  by_class, by_chance = (
    measure.separable((clean + delta).astype(np.uint8), clean, labels=labels, seed=0)
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
    found = measure.separable(images, labels=labels, seed=0)
    assert low <= found["test_accuracy"] <= high


def test_unchanged_images_have_no_perturbations():
  labels = np.repeat(np.arange(2), 10)
  images = images_of(labels)
  assert measure.separable(images, images, labels=labels, seed=0) is None


def test_perturbations_of_too_few_examples_are_a_note():
  labels = np.arange(4)
  images = images_of(labels)
  found = measure.separable(images + 1, images, labels=labels, seed=0)
  assert list(found) == ["note"]
  assert "at least 4 examples" in found["note"]


def test_fewer_images_are_used_where_they_are_large(monkeypatch):
  monkeypatch.setattr(measure, "_PIXELS", 16 * 80)
  labels = np.repeat(np.arange(4), 100)
  shaded = images_of(labels) + labels[:, None, None, None].astype(np.uint8)
  found = measure.separable(shaded, images_of(labels), labels=labels, seed=0)
  assert found["train_samples"] + found["test_samples"] == 80


def test_files_are_measured_on_the_same_rows(tmp_path):
  x, noise = RNG.standard_normal((2, 500, 2))
  y = 0.9 * x + np.sqrt(1 - 0.9**2) * noise
  paths = tmp_path / "x.npz", tmp_path / "y.npz"
  np.savez(paths[0], x)
  np.savez(paths[1], clean=x, released=y)
  settings = Measure(estimators=("gaussian",), samples=300, bootstrap=0, null=0, projections=8)
  found = measure.between_files(str(paths[0]), f"{paths[1]}:released", settings)
  assert (found["settings"]["samples"], found["settings"]["of"]) == (300, 500)
  # Rows that were drawn apart would be independent.
  assert found["rows"][0]["mi"] == pytest.approx(closed_forms.bivariate_normal(0.9), abs=0.2)
  np.savez(paths[1], y[:-1])
  with pytest.raises(UserError, match="row i of both"):
    measure.between_files(*map(str, paths), settings)
