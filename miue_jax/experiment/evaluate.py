"""Victims: train on clean, noisy, poisoned or restored images, test on clean ones -> rows.

Every victim trains once without a defence and once under each that is asked for.
"""

import fcntl
import json
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn import metrics

from miue_jax import budget, defences, models
from miue_jax.artefact.poison import Poison
from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.images import Images
from miue_jax.data.sampling import Draw, stratified
from miue_jax.defences.defence import Defence
from miue_jax.machine import files, processes, sharding
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.progress import Reporter
from miue_jax.settings.config import Config, Fit
from miue_jax.settings.errors import UserError
from miue_jax.train import fit, prediction

# Key of a row: dataset, method, victim, defence and seed make a cell of the table.
CELL = ("dataset", "method", "victim", "defence", "seed")

# Separates the control's noise from every other use of the seed.
_NOISE_SEED = 0x6E6F6973


def method_of(condition: str, config: Config) -> str:
  """The `method` a condition's rows carry."""
  return config.method.name if condition == "poison" else condition


def victim_name(network: str, recipe: Fit) -> str:
  """The `victim` of rows: a network, and the file that it starts from if it starts from one."""
  start = pathlib.Path(recipe.start_from).stem
  return f"{network} from {start}" if start else network


def training_split(
  condition: str, dataset: Dataset, poison: Poison | None, config: Config
) -> Split:
  """The images that a victim gets to see, uint8 as they would be stored.

  Args:
    condition: `clean`, `random` (noise of the same budget), `poison`, or `restored` (poisoned, then
      undone with the key).
    dataset: the clean images.
    poison: made for them; None for `clean` and `random`.
    config: the budget and seed of the control.
  """
  clean = dataset.train.images
  if condition == "clean":
    images = clean
  elif condition == "random":
    images = _noisy(clean, config.method.epsilon, _NOISE_SEED + config.seed)
  else:
    images = poison.apply(clean)
    if condition == "restored":
      images = poison.restore(images)
  return Split(images, dataset.train.labels)


def _noisy(clean: Images, epsilon: float, seed: int) -> Images:
  """Clean images with the control's noise."""

  def add_noise(ids: np.ndarray, images: np.ndarray) -> np.ndarray:
    noise = budget.random_noise(images, ids, epsilon, seed)
    return (images.astype(np.int16) + noise).astype(np.uint8)

  return clean.map(add_noise)


def rows(
  dataset: Dataset,
  poison: Poison | None,
  config: Config,
  *,
  results: pathlib.Path,
  checkpoints: pathlib.Path,
  progress: Reporter,
) -> list[dict[str, Any]]:
  """Trains every victim that `results` does not hold yet and returns all rows.

  Args:
    dataset: with a test split.
    poison: checked against the dataset; None where no condition needs one.
    config: `victim`, `victim_fit` and `evaluate`.
    results: the `results.jsonl` that rows are appended to.
    checkpoints: folder for the victims' states; the first seed's last state stays for `measure`.
    progress: makes the reporter of a stage.

  Raises:
    signals.Interrupted: a signal came; the running victim is saved.
    UserError: a loss is not finite, a file cannot be written.
  """
  done = read(results)
  for cell in processes.from_lead(lambda: _missing(done, dataset, config)):
    condition, defence, seed = cell
    undefended = defence == "none"
    states = Checkpoints(checkpoints / f"{condition}-{'' if undefended else defence + '-'}{seed}")
    row = _cell(*cell, dataset, config)
    row |= _trained(
      training_split(condition, dataset, poison, config),
      dataset,
      config,
      defences.build(defence),
      seed=seed,
      name=" ".join([row["method"], *([] if undefended else [defence]), f"seed {seed}"]),
      checkpoints=states,
      progress=progress,
    )
    if processes.is_lead():
      append(results, row)
    done.append(row)
    if seed != config.evaluate.seeds[0] or not undefended:
      states.delete()
  return done


def _trained(
  train: Split,
  dataset: Dataset,
  config: Config,
  defence: Defence,
  *,
  seed: int,
  name: str,
  checkpoints: Checkpoints,
  progress: Reporter,
) -> dict[str, Any]:
  """Trains one victim on what it got and returns the columns of its row that are measured."""
  test, clean, began = dataset.test, None, time.monotonic()
  if defence.needs_clean:
    clean, test = clean_share(test, config)
  if defence.preprocess:
    train = defence.preprocess(train, clean, seed)
  prepared = time.monotonic() - began
  recipe = defence.recipe(config.victim_fit) if defence.recipe else config.victim_fit
  module = models.build(config.victim, dataset.num_classes, train.images.shape[1:])
  fitted = fit.fit(
    module,
    recipe,
    train,
    test,
    seed=seed,
    name=name,
    checkpoints=checkpoints,
    progress=progress,
    hooks=defence.hooks,
    validation=clean if defence.stops_early else None,
  )
  _, logits = prediction.Predictor(module)(fitted.state, test.images)
  row = {
    "num_classes": dataset.num_classes,
    "epochs": recipe.epochs,
    **scores(logits, test.labels),
    **learning_curve(sharding.fetch(fitted.curve)),
    "seconds": round(float(fitted.seconds), 1),
  }
  if defence.preprocess:
    row["preprocess_seconds"] = round(prepared, 1)
  if clean is not None:
    row["test_images"] = len(test)
  if defence.measures:
    row |= defence.measures(module, fitted.state, test, seed)
  return row


def clean_share(test: Split, config: Config) -> tuple[Split, Split]:
  """Parts the test images, stratified: what a defence has of clean images, and the rest.

  The same parts for every victim, so that they are tested on the same images.

  Raises:
    UserError: a part is empty.
  """
  count = round(config.evaluate.clean_fraction * len(test))
  if not 0 < count < len(test):
    raise UserError(
      f"evaluate.clean_fraction={config.evaluate.clean_fraction:g} of {len(test)} test images "
      "leaves a defence or its test without images: change it, or use more test images."
    )
  chosen = np.zeros(len(test), bool)
  chosen[stratified(test.labels, count, config.data.seed, Draw.CLEAN)] = True
  return tuple(test.take(np.flatnonzero(part)) for part in (chosen, ~chosen))


def _missing(
  done: list[dict[str, Any]], dataset: Dataset, config: Config
) -> list[tuple[str, str, int]]:
  """The cells that no row of `done` fills."""
  filled = [[row[key] for key in CELL] for row in done]
  return [
    cell for cell in cells(config) if list(_cell(*cell, dataset, config).values()) not in filled
  ]


def _cell(
  condition: str, defence: str, seed: int, dataset: Dataset, config: Config
) -> dict[str, Any]:
  """The columns `CELL` of a row, in that order."""
  return {
    "dataset": dataset.name,
    "method": method_of(condition, config),
    "victim": victim_name(config.victim.name, config.victim_fit),
    "defence": defence,
    "seed": seed,
  }


def cells(config: Config) -> Iterator[tuple[str, str, int]]:
  """Every (condition, defence, seed), seed by seed: an early look compares like with like."""
  for seed in config.evaluate.seeds:
    for defence in config.evaluate.defences:
      for condition in config.evaluate.conditions:
        yield condition, defence, seed


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
  """Peak, last training accuracy and the curve of a row, from `fit.Fitted.curve`.

  With validation, also the test accuracy of the epoch whose validation accuracy is best.
  """
  columns = (np.round(column.astype(float), 4).tolist() for column in curve.T)
  loss, trained, tested, *validated = columns
  peak = int(np.argmax(tested))
  found = {
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
  for accuracies in validated:
    stop = int(np.argmax(accuracies))
    found |= {"stopped_test_accuracy": tested[stop], "stopped_epoch": stop + 1}
    found["curve"]["validation_accuracy"] = accuracies
  return found


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
    fcntl.lockf(file, fcntl.LOCK_EX)  # other programs add rows, too; to close the file unlocks it
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
    file.write(json.dumps(row).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())
