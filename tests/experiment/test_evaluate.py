"""Victims: scores against scikit-learn and closed forms, rows that survive a kill."""

import dataclasses
import functools
import json
from unittest import mock

import numpy as np
import pytest
from sklearn import metrics

from miue_jax import defences
from miue_jax.artefact.poison import Poison
from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.images import LazyImages
from miue_jax.defences.defence import Defence
from miue_jax.experiment import evaluate
from miue_jax.machine.progress import Progress
from miue_jax.settings.config import Config, Evaluate, Fit, Method, Model
from miue_jax.settings.errors import UserError

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
  clean = dataset.train.images[:].astype(int)
  delta = (np.clip(clean + delta, 0, 255) - clean).astype(np.int8)
  return Poison.make(
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


def test_learning_curve_names_where_validation_would_stop():
  curve = np.array([[2, 30, 40, 50], [1, 60, 70, 60], [0.5, 90, 60, 80], [0.1, 99, 20, 80]])
  found = evaluate.learning_curve(curve.astype(np.float32))
  assert (found["peak_test_accuracy"], found["peak_epoch"]) == (70, 2)
  assert (found["stopped_test_accuracy"], found["stopped_epoch"]) == (60, 3)
  assert found["curve"]["validation_accuracy"] == [50, 60, 80, 80]


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
  np.testing.assert_array_equal(seen["poison"].images[:].astype(int) - clean, poison.delta)
  noise = seen["random"].images[:].astype(int) - clean
  assert np.abs(noise).max() == 16
  other = evaluate.training_split(
    "random", dataset, poison, dataclasses.replace(CONFIG, seed=CONFIG.seed + 1)
  )
  assert (other.images[:] != seen["random"].images).any()


def test_images_that_are_read_when_needed_are_the_same():
  dataset = make_dataset()
  poison, images = make_poison(dataset), dataset.train.images
  lazy = LazyImages(lambda ids: images[ids], len(images), "sides")
  read = dataclasses.replace(dataset, train=Split(lazy, dataset.train.labels))
  order = np.random.default_rng(0).permutation(len(images))
  for condition in ("clean", "random", "poison", "restored"):
    expected = evaluate.training_split(condition, dataset, poison, CONFIG).images
    seen = evaluate.training_split(condition, read, poison, CONFIG).images
    assert not seen.in_memory
    np.testing.assert_array_equal(seen[order], expected[order])
    np.testing.assert_array_equal(seen[3:5], expected[3:5])


def test_cells_go_seed_by_seed():
  config = dataclasses.replace(
    CONFIG, evaluate=dataclasses.replace(CONFIG.evaluate, defences=("none", "jpeg10"))
  )
  assert list(evaluate.cells(config)) == [
    (condition, defence, seed)
    for seed in (5, 6)
    for defence in ("none", "jpeg10")
    for condition in ("clean", "poison")
  ]


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


def fake(name, **fields):
  return mock.patch.dict(defences.PLAIN, {name: lambda: Defence(name, **fields)})


def train_rows(folder, names, conditions=("poison",), seeds=(5,)):
  """Rows under these defences, and the folders of states that are left."""
  dataset = make_dataset()
  config = dataclasses.replace(
    CONFIG, evaluate=Evaluate(conditions=conditions, seeds=seeds, defences=names)
  )
  rows = evaluate.rows(
    dataset,
    make_poison(dataset),
    config,
    results=folder / "results.jsonl",
    checkpoints=folder / "victims",
    progress=functools.partial(Progress, folder / "tensorboard"),
  )
  return rows, sorted(path.name for path in (folder / "victims").iterdir())


def test_rows_carry_their_defence_and_only_undefended_states_stay(tmp_path, use_devices):
  use_devices(2)
  rows, states = train_rows(tmp_path, ("none", "bits1"), ("clean", "poison"), (5, 6))
  assert [(row["method"], row["defence"], row["seed"]) for row in rows] == [
    (method, defence, seed)
    for seed in (5, 6)
    for defence in ("none", "bits1")
    for method in ("clean", "miue")
  ]
  assert states == ["clean-5", "poison-5"]
  # One bit is 0 or 128, and nothing here reaches 128 but for what is clipped anyway.
  assert rows[0]["curve"]["train_loss"] != rows[2]["curve"]["train_loss"]
  assert train_rows(tmp_path, ("none", "bits1"), ("clean", "poison"), (5, 6))[0] == rows


@pytest.mark.parametrize("names", [("jpeg10", "mixup", "at4"), ("projection", "earlystop")])
def test_real_defences_fill_their_rows(tmp_path, use_devices, names):
  use_devices(2)
  rows, _ = train_rows(tmp_path, ("none", *names))
  assert [row["defence"] for row in rows] == ["none", *names]
  found = {row["defence"]: row for row in rows}
  losses = {name: tuple(row["curve"]["train_loss"]) for name, row in found.items()}
  # Early stopping trains as the undefended victim does, the others do not.
  distinct = set(names) - {"earlystop"} | {"none"}
  assert len({losses[name] for name in distinct}) == len(distinct)
  if "at4" in found:
    assert 0 <= found["at4"]["robust_test_accuracy"] <= found["at4"]["test_accuracy"]
  if "earlystop" in found:
    row = found["earlystop"]
    assert losses["earlystop"] == losses["none"]
    validated = row["curve"]["validation_accuracy"]
    assert validated[row["stopped_epoch"] - 1] == max(validated)


def test_a_defence_changes_data_recipe_and_row(tmp_path, use_devices):
  use_devices(1)
  seen = {}

  def preprocess(train, clean, seed):
    seen.update(train=train, clean=clean, seed=seed)
    return dataclasses.replace(train, images=np.zeros_like(train.images))

  with fake(
    "blind",
    preprocess=preprocess,
    recipe=lambda recipe: dataclasses.replace(recipe, epochs=2),
    measures=lambda module, state, test, seed: {"seen": [len(test), seed]},
    needs_clean=True,
    stops_early=True,
  ):
    defences.build.cache_clear()
    rows, states = train_rows(tmp_path, ("none", "blind"))
  row, dataset = rows[1], make_dataset()
  np.testing.assert_array_equal(
    seen["train"].images, make_poison(dataset).apply(dataset.train.images)
  )
  assert (row["epochs"], len(row["curve"]["epoch"]), row["seen"], seen["seed"]) == (2, 2, [8, 5], 5)
  assert row["test_images"] == len(seen["clean"]) == 8
  assert row["preprocess_seconds"] >= 0
  # Black images tell nothing: the loss stays that of a guess.
  assert row["curve"]["train_loss"] == pytest.approx([np.log(2)] * 2, abs=0.02)
  assert row["stopped_test_accuracy"] == row["curve"]["test_accuracy"][row["stopped_epoch"] - 1]
  assert rows[0]["epochs"] == 3
  assert "test_images" not in rows[0]
  assert states == ["poison-5"]


def test_clean_images_are_a_stratified_share_that_is_not_tested_on():
  dataset = make_dataset()
  config = dataclasses.replace(CONFIG, evaluate=Evaluate(clean_fraction=0.25))
  clean, test = evaluate.clean_share(dataset.test, config)
  assert np.bincount(clean.labels).tolist() == [2, 2]
  assert np.bincount(test.labels).tolist() == [6, 6]
  both = np.concatenate([clean.images, test.images]).reshape(16, -1)
  assert sorted(map(bytes, both)) == sorted(map(bytes, dataset.test.images[:].reshape(16, -1)))
  again = evaluate.clean_share(dataset.test, config)[0]
  np.testing.assert_array_equal(again.images, clean.images)


def test_too_few_test_images_to_share_is_an_error():
  dataset = make_dataset()
  config = dataclasses.replace(CONFIG, evaluate=Evaluate(clean_fraction=0.01))
  with pytest.raises(UserError, match=r"clean_fraction=0\.01 of 16 test images leaves"):
    evaluate.clean_share(dataset.test, config)
