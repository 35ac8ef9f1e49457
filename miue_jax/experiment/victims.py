"""Trains victims on clean, noisy, poisoned or restored images and tests them on clean ones."""

import pathlib
import time
from typing import Any

import numpy as np
from scipy import special
from sklearn import metrics

from miue_jax import budget, models
from miue_jax.artefact.poison import Poison
from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.images import Images
from miue_jax.data.sampling import Draw, stratified
from miue_jax.defences.defence import Defence
from miue_jax.machine import sharding
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.progress import Reporter
from miue_jax.settings.config import Config, Fit
from miue_jax.settings.errors import UserError
from miue_jax.train import fit, prediction, pretrained

# Separates the control's noise from every other use of the seed.
_NOISE_SEED = 0x6E6F6973


def name_of(network: str, recipe: Fit) -> str:
  """Returns the `victim` of rows: the network, and the file of initial weights if there is one."""
  start = pathlib.Path(recipe.start_from).stem
  return f"{network} from {start}" if start else network


def check(config: Config, dataset: Dataset) -> None:
  """Raises a UserError if the victim's network does not fit the images or its initial weights."""
  image = dataset.train.images.shape[1:]
  module = models.build(config.victim, dataset.num_classes, image)
  if start := config.victim_fit.start_from:
    pretrained.check(pretrained.load(start), module, image)


def training_split(
  condition: str, dataset: Dataset, poison: Poison | None, config: Config
) -> Split:
  """Returns the training images of a condition, uint8 as they would be stored.

  Args:
    condition: `clean`, `random` (noise of the same budget), `poison`, or `restored` (poisoned, then
      restored with the key).
    dataset: The clean data.
    poison: The poison; None for `clean` and `random`.
    config: The settings; budget and seed of the noise.
  """
  images = dataset.train.images
  if condition == "random":
    images = _noisy(images, config.method.epsilon, _NOISE_SEED + config.seed)
  elif condition != "clean":
    assert poison is not None, condition
    images = poison.apply(images)
    if condition == "restored":
      images = poison.restore(images)
  return Split(images, dataset.train.labels)


def _noisy(clean: Images, epsilon: float, seed: int) -> Images:
  def add_noise(ids: np.ndarray, images: np.ndarray) -> np.ndarray:
    noise = budget.random_noise(images, ids, epsilon, seed)
    return (images.astype(np.int16) + noise).astype(np.uint8)

  return clean.map(add_noise)


def train(
  split: Split,
  dataset: Dataset,
  config: Config,
  defence: Defence,
  *,
  seed: int,
  name: str,
  checkpoints: Checkpoints,
  progress: Reporter,
) -> dict[str, Any]:
  """Trains one victim and returns the measured columns of its row.

  Args:
    split: The training images as published.
    dataset: The clean data; the victim is tested on its test images.
    config: The settings: `victim`, `victim_fit` and `evaluate.clean_fraction`.
    defence: The defence of the victim.
    seed: Seed of the training.
    name: Name of the training in the log.
    checkpoints: Storage of states.
    progress: Makes the reporter of the training.

  Raises:
    signals.Interrupted: A signal came; the state is saved.
    UserError: The loss is not finite, or a file cannot be written.
  """
  test, clean, began = dataset.test_set, None, time.monotonic()
  if defence.needs_clean:
    clean, test = clean_share(test, config)
  if defence.preprocess:
    split = defence.preprocess(split, clean, seed)
    if split.images.dtype != np.uint8 or len(split.labels) != len(split.images):
      raise UserError(
        f"Defence {defence.name!r} returns {len(split.images)} images of {split.images.dtype} and "
        f"{len(split.labels)} labels: return uint8 images in 0..255 with one label each."
      )
  prepared = time.monotonic() - began
  recipe = defence.recipe(config.victim_fit) if defence.recipe else config.victim_fit
  module = models.build(config.victim, dataset.num_classes, split.images.shape[1:])
  fitted = fit.fit(
    module,
    recipe,
    split,
    test,
    seed=seed,
    name=name,
    checkpoints=checkpoints,
    progress=progress,
    hooks=defence.hooks,
    validation=clean if defence.stops_early else None,
  )
  _, logits = prediction.predict(module, fitted.state, test.images)
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
  """Divides the test images, stratified, into the clean images of a defence and the rest.

  The parts are the same for every victim, so that all are tested on the same images.

  Raises:
    UserError: A part is empty.
  """
  count = round(config.evaluate.clean_fraction * len(test))
  if not 0 < count < len(test):
    raise UserError(
      f"evaluate.clean_fraction={config.evaluate.clean_fraction:g} of {len(test)} test images "
      "leaves a defence or its test without images: change it, or use more test images."
    )
  chosen = np.zeros(len(test), bool)
  chosen[stratified(test.labels, count, config.data.seed, Draw.CLEAN)] = True
  return test.take(np.flatnonzero(chosen)), test.take(np.flatnonzero(~chosen))


def scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
  """Returns accuracy and balanced accuracy (percent) and AUC (0..1; one against the rest, macro).

  Args:
    logits: Logits `[N, K]`.
    labels: Labels `[N]`.

  Returns:
    The scores. Balanced accuracy averages over the classes that have test images; `auc` is None
    unless every class has some.
  """
  predicted, present = np.argmax(logits, axis=1), np.unique(labels)
  recall = metrics.recall_score(labels, predicted, labels=present, average="macro")
  probabilities = special.softmax(logits.astype(np.float64), axis=1)
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
  """Returns peak, last training accuracy and the curve of a row, from `fit.Fitted.curve`.

  With validation images, it also returns the test accuracy of the epoch with the best validation
  accuracy.
  """
  columns = (np.round(column.astype(float), 4).tolist() for column in curve.T)
  loss, trained, tested, *validated = columns
  peak = int(np.argmax(tested))
  found: dict[str, Any] = {
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
