"""Victims: scores against scikit-learn and closed forms, rows that survive a kill."""

import dataclasses
import functools
import json
from unittest import mock

import numpy as np
import pytest
from sklearn import metrics

from miue_jax import evaluate
from miue_jax import poison as artefact
from miue_jax.config import Config, Evaluate, Fit, Method, Model
from miue_jax.data import reader
from miue_jax.data.dataset import Dataset, Split
from miue_jax.errors import UserError
from miue_jax.progress import Progress

ROW = {"dataset": "d", "method": "clean", "victim": "linear", "defence": "none", "seed": 0}
CONFIG = Config(
  method=Method(epsilon=16 / 255),
  victim=Model(name="linear", normalise="none"),
  victim_fit=Fit(epochs=3, batch_size=8, learning_rate=0.1, augment="none"),
  evaluate=Evaluate(conditions=("clean", "poison"), seeds=(5, 6)),
)


def make_dataset():
  """Two classes that a linear model tells apart: bright on the left, bright on the right."""
  rng = np.random.default_rng(0)
  labels = np.arange(48, dtype=np.int32) % 2
  images = rng.integers(0, 100, (48, 4, 4, 1), np.uint8)
  images[labels == 0, :, :2] += 100
  images[labels == 1, :, 2:] += 100
  train, test = Split(images[:32], labels[:32]), Split(images[32:], labels[32:])
  return Dataset("sides", train, test, ("left", "right"))


def make_poison(dataset):
  delta = np.where(dataset.train.labels == 0, 16, -16).astype(np.int8).reshape(-1, 1, 1, 1)
  clean = dataset.train.images.astype(int)
  delta = (np.clip(clean + delta, 0, 255) - clean).astype(np.int8)
  return artefact.make(
    dataset, delta, method="miue", epsilon=16 / 255, config={}, seed=0, seconds=1.0
  )


def probabilities(logits):
  exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
  return exponents / exponents.sum(axis=1, keepdims=True)


def test_scores_of_two_classes_by_hand():
  # Margins for class 1 in ascending order of the images: -2, -1, 1, 2; labels 0, 1, 0, 1. Three of
  # the four (0, 1) pairs are ordered.
  margins = np.array([-2.0, -1.0, 1.0, 2.0], np.float32)
  logits = np.stack([0 * margins, margins], axis=1)
  scores = evaluate.scores(logits, np.array([0, 1, 0, 1]))
  assert scores == {"test_accuracy": 50.0, "balanced_accuracy": 50.0, "auc": 0.75}


def test_scores_of_imbalanced_classes_by_hand():
  # Always class 0: right for nine of ten images, for one of two classes; all margins tie.
  logits = np.tile(np.array([1.0, 0.0], np.float32), (10, 1))
  scores = evaluate.scores(logits, np.arange(10) // 9)
  assert scores == {"test_accuracy": 90.0, "balanced_accuracy": 50.0, "auc": 0.5}


@pytest.mark.parametrize("classes", [2, 7])
def test_scores_are_scikit_learns(classes):
  rng = np.random.default_rng(classes)
  labels = rng.integers(0, classes, 300)
  logits = rng.standard_normal((300, classes)).astype(np.float32)
  logits[np.arange(300), labels] += 1
  scores, predicted = evaluate.scores(logits, labels), logits.argmax(axis=1)
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
  scores = evaluate.scores(logits, np.array([0, 0, 1, 1]))
  # Recall is 1 for class 0 and 1/2 for class 1; class 2 has none.
  assert scores == {"test_accuracy": 75.0, "balanced_accuracy": 75.0, "auc": None}


def test_huge_logits_are_fine():
  logits = np.array([[1e4, 0], [0, 1e4], [0, 1e4]], np.float32)
  assert evaluate.scores(logits, np.array([0, 1, 1]))["auc"] == 1.0


def test_learning_curve_names_its_peak():
  curve = np.array([[2.0, 30, 40], [1.0, 60, 70], [0.5, 90, 70], [0.1, 99, 20]], np.float32)
  found = evaluate.learning_curve(curve)
  assert (found["peak_test_accuracy"], found["peak_epoch"], found["train_accuracy"]) == (70, 2, 99)
  assert found["curve"]["epoch"] == [1, 2, 3, 4]
  assert found["curve"]["train_loss"] == [2.0, 1.0, 0.5, 0.1]
  assert json.loads(json.dumps(found)) == found


def test_no_file_has_no_rows(tmp_path):
  assert evaluate.read(tmp_path / "results.jsonl") == []


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_row_that_a_kill_cut_off_is_dropped_and_replaced(tmp_path, cut):
  path = tmp_path / "results.jsonl"
  first, second, third = ({**ROW, "seed": seed, "victim": "é\n"} for seed in range(3))
  evaluate.append(path, first)
  evaluate.append(path, second)
  path.write_bytes(path.read_bytes()[:-cut])
  assert evaluate.read(path) == [first]
  evaluate.append(path, third)
  assert evaluate.read(path) == [first, third]
  assert path.read_bytes().endswith(b"\n")


def test_a_lone_row_that_was_cut_off_is_dropped(tmp_path):
  path = tmp_path / "results.jsonl"
  path.write_bytes(b'{"dataset": "d"')
  assert evaluate.read(path) == []
  evaluate.append(path, ROW)
  assert evaluate.read(path) == [ROW]


@pytest.mark.parametrize(
  ("line", "message"),
  [(b"{", "not JSON"), (b"", "not JSON"), (b"\xff", "not JSON"), (b"{}", "not a result")],
)
def test_a_whole_line_that_is_no_row_is_an_error(tmp_path, line, message):
  path = tmp_path / "results.jsonl"
  path.write_bytes(json.dumps(ROW).encode() + b"\n" + line + b"\n")
  with pytest.raises(UserError, match=message):
    evaluate.read(path)


def test_a_row_that_cannot_be_written_is_an_error(tmp_path):
  with pytest.raises(UserError, match="Cannot write"):
    evaluate.append(tmp_path / "missing" / "results.jsonl", ROW)


def test_what_a_victim_sees():
  dataset = make_dataset()
  poison, clean = make_poison(dataset), dataset.train.images
  seen = {
    condition: evaluate.training_split(condition, dataset, poison, CONFIG)
    for condition in ("clean", "random", "poison", "restored")
  }
  assert all(split.images.dtype == np.uint8 for split in seen.values())
  assert all(split.labels is dataset.train.labels for split in seen.values())
  np.testing.assert_array_equal(seen["clean"].images, clean)
  np.testing.assert_array_equal(seen["restored"].images, clean)
  np.testing.assert_array_equal(seen["poison"].images.astype(int) - clean, poison.delta)
  noise = seen["random"].images.astype(int) - clean
  assert np.abs(noise).max() == 16
  other = evaluate.training_split(
    "random", dataset, poison, dataclasses.replace(CONFIG, seed=CONFIG.seed + 1)
  )
  assert (other.images != seen["random"].images).any()


def test_images_that_are_read_when_needed_are_the_same():
  dataset = make_dataset()
  poison, images = make_poison(dataset), dataset.train.images
  lazy = reader.LazyImages(lambda ids: images[ids], images.shape, "sides")
  read = dataclasses.replace(dataset, train=Split(lazy, dataset.train.labels))
  order = np.random.default_rng(0).permutation(len(images))
  for condition in ("clean", "random", "poison", "restored"):
    expected = evaluate.training_split(condition, dataset, poison, CONFIG).images
    seen = evaluate.training_split(condition, read, poison, CONFIG).images
    assert isinstance(seen, reader.LazyImages)
    np.testing.assert_array_equal(seen[order], expected[order])
    np.testing.assert_array_equal(seen[3:5], expected[3:5])


def test_cells_go_seed_by_seed():
  assert list(evaluate.cells(CONFIG)) == [("clean", 5), ("poison", 5), ("clean", 6), ("poison", 6)]


def test_missing_victims_are_trained_once(tmp_path, use_devices):
  use_devices(2)
  dataset = make_dataset()
  progress = mock.Mock(wraps=functools.partial(Progress, tmp_path / "tensorboard"))
  results, states = tmp_path / "results.jsonl", tmp_path / "victims"
  done = {**ROW, "dataset": "sides", "method": "miue", "seed": 6}
  evaluate.append(results, done)

  def rows():
    return evaluate.rows(
      dataset,
      make_poison(dataset),
      CONFIG,
      results=results,
      checkpoints=states,
      progress=progress,
    )

  rows_once = rows()
  assert rows_once == evaluate.read(results)
  assert rows_once[0] == done
  assert [(row["method"], row["seed"]) for row in rows_once[1:]] == [
    ("clean", 5),
    ("miue", 5),
    ("clean", 6),
  ]
  for row in rows_once[1:]:
    assert (row["num_classes"], row["epochs"], len(row["curve"]["epoch"])) == (2, 3, 3)
    # The last epoch of the curve and the scores come from one state.
    assert row["curve"]["test_accuracy"][-1] == pytest.approx(row["test_accuracy"], abs=1e-3)
  assert rows_once[1]["test_accuracy"] > 90
  # The first seed's states are what `measure` looks at.
  assert sorted(path.name for path in states.iterdir()) == ["clean-5", "poison-5"]
  calls = progress.call_count
  assert rows() == rows_once
  assert progress.call_count == calls == 3
