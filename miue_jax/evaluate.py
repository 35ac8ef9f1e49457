"""Victims: train on clean, noisy, poisoned or restored images, test on clean ones -> rows."""

import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn import metrics

from miue_jax import files, fit, models, perturb, processes, runtime
from miue_jax import poison as artefact
from miue_jax.checkpoint import Checkpoints
from miue_jax.config import Config
from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.reader import LazyImages
from miue_jax.errors import UserError
from miue_jax.poison import Poison
from miue_jax.progress import Reporter

# Key of a row: dataset, method, victim, defence and seed make a cell of the table.
CELL = ("dataset", "method", "victim", "defence", "seed")

# Separates the control's noise from every other use of the seed.
_NOISE_SEED = 0x6E6F6973


def method_of(condition: str, config: Config) -> str:
  """The `method` a condition's rows carry."""
  return config.method.name if condition == "poison" else condition


def training_split(condition: str, dataset: Dataset, poison: Poison, config: Config) -> Split:
  """The images that a victim gets to see, uint8 as they would be stored.

  Args:
    condition: `clean`, `random` (noise of the same budget), `poison`, or `restored` (poisoned, then
      undone with the key).
    dataset: the clean images.
    poison: made for them.
    config: the budget and seed of the control.
  """
  clean = dataset.train.images
  if condition == "clean":
    images = clean
  elif condition == "random":
    images = _noisy(clean, config.method.epsilon, _NOISE_SEED + config.seed)
  else:
    images = artefact.apply(poison, clean)
    if condition == "restored":
      images = artefact.restore(poison, images)
  return Split(images, dataset.train.labels)


def _noisy(clean: np.ndarray | LazyImages, epsilon: float, seed: int) -> np.ndarray | LazyImages:
  """Clean images with the control's noise; an image that is read alone gets the same noise."""
  if not isinstance(clean, LazyImages):
    noise = perturb.random_noise(clean, epsilon, seed)
    return (clean.astype(np.int16) + noise).astype(np.uint8)
  values = math.prod(clean.shape[1:])  # drawn for one image

  def add_noise(ids: np.ndarray, images: np.ndarray) -> np.ndarray:
    noise = np.empty(images.shape, np.float32)
    for row, index in enumerate(ids):
      bits = np.random.PCG64(seed).advance(int(index) * values)
      noise[row] = np.random.Generator(bits).uniform(-epsilon, epsilon, images.shape[1:])
    return (images.astype(np.int16) + perturb.realise(images, noise, epsilon)).astype(np.uint8)

  return clean.map(add_noise)


def rows(
  dataset: Dataset,
  poison: Poison,
  config: Config,
  *,
  results: pathlib.Path,
  checkpoints: pathlib.Path,
  progress: Reporter,
) -> list[dict[str, Any]]:
  """Trains every victim that `results` does not hold yet and returns all rows.

  Args:
    dataset: with a test split.
    poison: checked against the dataset.
    config: `victim`, `victim_fit` and `evaluate`.
    results: the `results.jsonl` that rows are appended to.
    checkpoints: folder for the victims' states; the first seed's last state stays for `measure`.
    progress: makes the reporter of a stage.

  Raises:
    runtime.Interrupted: a signal came; the running victim is saved.
    UserError: a loss is not finite, a file cannot be written.
  """
  done = read(results)
  for condition, seed in processes.from_lead(lambda: _missing(done, dataset, config)):
    module = models.build(config.victim, dataset.num_classes, dataset.train.images.shape[1:])
    states = Checkpoints(checkpoints / f"{condition}-{seed}")
    fitted = fit.fit(
      module,
      config.victim_fit,
      training_split(condition, dataset, poison, config),
      dataset.test,
      seed=seed,
      name=f"{method_of(condition, config)} seed {seed}",
      checkpoints=states,
      progress=progress,
    )
    _, logits = fit.Predictor(module)(fitted.state, dataset.test.images)
    row = {
      **_cell(condition, seed, dataset, config),
      "num_classes": dataset.num_classes,
      "epochs": config.victim_fit.epochs,
      **scores(logits, dataset.test.labels),
      **learning_curve(runtime.fetch(fitted.curve)),
      "seconds": round(float(fitted.seconds), 1),
    }
    if processes.is_lead():
      append(results, row)
    done.append(row)
    if seed != config.evaluate.seeds[0]:
      states.delete()
  return done


def _missing(done: list[dict[str, Any]], dataset: Dataset, config: Config) -> list[tuple[str, int]]:
  """The cells that no row of `done` fills."""
  filled = [[row[key] for key in CELL] for row in done]
  return [
    (condition, seed)
    for condition, seed in cells(config)
    if list(_cell(condition, seed, dataset, config).values()) not in filled
  ]


def _cell(condition: str, seed: int, dataset: Dataset, config: Config) -> dict[str, Any]:
  """The columns `CELL` of a row, in that order."""
  return {
    "dataset": dataset.name,
    "method": method_of(condition, config),
    "victim": config.victim.name,
    "defence": "none",
    "seed": seed,
  }


def cells(config: Config) -> Iterator[tuple[str, int]]:
  """Every (condition, seed), seed by seed so that an early look compares like with like."""
  for seed in config.evaluate.seeds:
    for condition in config.evaluate.conditions:
      yield condition, seed


def scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
  """Accuracy and balanced accuracy (percent) and AUC (0..1; one against the rest, macro mean).

  Args:
    logits: `[N, K]`.
    labels: `[N]`.

  Returns:
    `auc` is None where a class has no test image; balanced accuracy averages over those that have.
  """
  predicted, present = np.argmax(logits, axis=1), np.unique(labels)
  recall = metrics.recall_score(labels, predicted, labels=present, average="macro")
  shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
  probabilities = shifted / shifted.sum(axis=1, keepdims=True)
  auc = None
  if len(present) == logits.shape[1]:
    score = probabilities[:, 1] if logits.shape[1] == 2 else probabilities
    auc = round(float(metrics.roc_auc_score(labels, score, multi_class="ovr")), 5)
  return {
    "test_accuracy": round(100 * float(np.mean(predicted == labels)), 3),
    "balanced_accuracy": round(100 * float(recall), 3),
    "auc": auc,
  }


def learning_curve(curve: np.ndarray) -> dict[str, Any]:
  """Peak, last training accuracy and the curve of a row, from `fit.Fitted.curve`."""
  loss, trained, tested = (np.round(column.astype(float), 4).tolist() for column in curve.T)
  peak = int(np.argmax(tested))
  return {
    "peak_test_accuracy": tested[peak],
    "peak_epoch": peak + 1,
    "train_accuracy": trained[-1],
    "curve": {
      "epoch": list(range(1, len(tested) + 1)),
      "train_loss": loss,
      "train_accuracy": trained,
      "test_accuracy": tested,
    },
  }


def read(results: pathlib.Path) -> list[dict[str, Any]]:
  """Rows of a `results.jsonl`; none where it does not exist yet.

  A last line without its newline was cut off by a kill and does not count.

  Raises:
    UserError: a whole line is not a row.
  """
  if not results.exists():
    return []
  with files.reported("read", results):
    *lines, _ = results.read_bytes().split(b"\n")
  try:
    found = [json.loads(line) for line in lines]
  except ValueError as error:
    raise UserError(f"{results} holds a line that is not JSON: delete that line.") from error
  if not all(isinstance(row, dict) and set(CELL) <= set(row) for row in found):
    raise UserError(f"{results} holds a line that is not a result: delete that line.")
  return found


def append(results: pathlib.Path, row: dict[str, Any]) -> None:
  """Adds one row, on the disk when this returns; drops a line that a kill cut off."""
  with files.reported("write", results), open(results, "ab+") as file:
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
    file.write(json.dumps(row).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())
