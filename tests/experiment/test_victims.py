"""Scores against scikit-learn and closed forms; the images that victims see."""

import dataclasses
import json

import numpy as np
import pytest
from sides import CONFIG, make_dataset, make_poison
from sklearn import metrics

from miue_jax.data.dataset import Split
from miue_jax.data.images import LazyImages
from miue_jax.experiment import victims
from miue_jax.settings.config import Evaluate
from miue_jax.settings.errors import UserError


def probabilities(logits):
  exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
  return exponents / exponents.sum(axis=1, keepdims=True)


def test_scores_of_two_classes_by_hand():
  # Margins for class 1 in ascending order of the images: -2, -1, 1, 2; labels 0, 1, 0, 1. Three of
  # the four (0, 1) pairs are ordered.
  margins = np.array([-2.0, -1.0, 1.0, 2.0], np.float32)
  logits = np.stack([0 * margins, margins], axis=1)
  scores = victims.scores(logits, np.array([0, 1, 0, 1]))
  assert scores == {"test_accuracy": 50.0, "balanced_accuracy": 50.0, "auc": 0.75}


def test_scores_of_imbalanced_classes_by_hand():
  # Always class 0: right for nine of ten images, for one of two classes; all margins tie.
  logits = np.tile(np.array([1.0, 0.0], np.float32), (10, 1))
  scores = victims.scores(logits, np.arange(10) // 9)
  assert scores == {"test_accuracy": 90.0, "balanced_accuracy": 50.0, "auc": 0.5}


@pytest.mark.parametrize("classes", [2, 7])
def test_scores_are_scikit_learns(classes):
  rng = np.random.default_rng(classes)
  labels = rng.integers(0, classes, 300)
  logits = rng.standard_normal((300, classes)).astype(np.float32)
  logits[np.arange(300), labels] += 1
  scores, predicted = victims.scores(logits, labels), logits.argmax(axis=1)
  assert scores["test_accuracy"] == pytest.approx(
    100 * metrics.accuracy_score(labels, predicted), abs=1e-3
  )
  assert scores["balanced_accuracy"] == pytest.approx(
    100 * metrics.balanced_accuracy_score(labels, predicted), abs=1e-3
  )
  one_against_rest = [
    metrics.roc_auc_score(labels == k, probabilities(logits)[:, k]) for k in range(classes)
  ]
  assert scores["auc"] == pytest.approx(np.mean(one_against_rest), abs=1e-5)


def test_a_class_without_test_images_has_no_auc_and_does_not_count():
  logits = 5 * np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
  scores = victims.scores(logits, np.array([0, 0, 1, 1]))
  # Recall is 1 for class 0 and 1/2 for class 1; class 2 has none.
  assert scores == {"test_accuracy": 75.0, "balanced_accuracy": 75.0, "auc": None}


def test_huge_logits_are_fine():
  logits = np.array([[1e4, 0], [0, 1e4], [0, 1e4]], np.float32)
  assert victims.scores(logits, np.array([0, 1, 1]))["auc"] == 1.0


def test_learning_curve_names_its_peak():
  curve = np.array([[2.0, 30, 40], [1.0, 60, 70], [0.5, 90, 70], [0.1, 99, 20]], np.float32)
  found = victims.learning_curve(curve)
  assert (found["peak_test_accuracy"], found["peak_epoch"], found["train_accuracy"]) == (70, 2, 99)
  assert found["curve"]["epoch"] == [1, 2, 3, 4]
  assert found["curve"]["train_loss"] == [2.0, 1.0, 0.5, 0.1]
  assert json.loads(json.dumps(found)) == found


def test_learning_curve_names_the_epoch_at_which_validation_stops():
  curve = np.array([[2, 30, 40, 50], [1, 60, 70, 60], [0.5, 90, 60, 80], [0.1, 99, 20, 80]])
  found = victims.learning_curve(curve.astype(np.float32))
  assert (found["peak_test_accuracy"], found["peak_epoch"]) == (70, 2)
  assert (found["stopped_test_accuracy"], found["stopped_epoch"]) == (60, 3)
  assert found["curve"]["validation_accuracy"] == [50, 60, 80, 80]


def test_what_a_victim_sees():
  dataset = make_dataset()
  poison, clean = make_poison(dataset), dataset.train.images
  seen = {
    condition: victims.training_split(condition, dataset, poison, CONFIG)
    for condition in ("clean", "random", "poison", "restored")
  }
  assert all(split.images.dtype == np.uint8 for split in seen.values())
  assert all(split.labels is dataset.train.labels for split in seen.values())
  np.testing.assert_array_equal(seen["clean"].images, clean)
  np.testing.assert_array_equal(seen["restored"].images, clean)
  np.testing.assert_array_equal(seen["poison"].images[:].astype(int) - clean, poison.delta)
  noise = seen["random"].images[:].astype(int) - clean
  assert np.abs(noise).max() == 16
  other = victims.training_split(
    "random", dataset, poison, dataclasses.replace(CONFIG, seed=CONFIG.seed + 1)
  )
  assert (other.images[:] != seen["random"].images[:]).any()


def test_images_that_are_read_when_needed_are_the_same():
  dataset = make_dataset()
  poison, images = make_poison(dataset), dataset.train.images
  lazy = LazyImages(lambda ids: images[ids], len(images), "sides")
  read = dataclasses.replace(dataset, train=Split(lazy, dataset.train.labels))
  order = np.random.default_rng(0).permutation(len(images))
  for condition in ("clean", "random", "poison", "restored"):
    expected = victims.training_split(condition, dataset, poison, CONFIG).images
    seen = victims.training_split(condition, read, poison, CONFIG).images
    assert not seen.in_memory
    np.testing.assert_array_equal(seen[order], expected[order])
    np.testing.assert_array_equal(seen[3:5], expected[3:5])


def test_clean_images_are_a_stratified_share_that_is_not_tested_on():
  dataset = make_dataset()
  config = dataclasses.replace(CONFIG, evaluate=Evaluate(clean_fraction=0.25))
  clean, test = victims.clean_share(dataset.test, config)
  assert np.bincount(clean.labels).tolist() == [2, 2]
  assert np.bincount(test.labels).tolist() == [6, 6]
  both = np.concatenate([clean.images, test.images]).reshape(16, -1)
  assert sorted(map(bytes, both)) == sorted(map(bytes, dataset.test.images[:].reshape(16, -1)))
  again = victims.clean_share(dataset.test, config)[0]
  np.testing.assert_array_equal(again.images, clean.images)


def test_too_few_test_images_to_share_is_an_error():
  dataset = make_dataset()
  config = dataclasses.replace(CONFIG, evaluate=Evaluate(clean_fraction=0.01))
  with pytest.raises(UserError, match=r"clean_fraction=0\.01 of 16 test images leaves"):
    victims.clean_share(dataset.test, config)
