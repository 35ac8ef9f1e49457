"""Measures a victim's features of images before and after their release."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from miue_jax import models
from miue_jax.artefact import features as feature_files
from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.images import Images
from miue_jax.data.sampling import Draw, stratified
from miue_jax.experiment.results import Row
from miue_jax.experiment.workdir import Experiment
from miue_jax.information import OPTIONS, measurement, separability
from miue_jax.machine import files, sharding
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.settings.config import Measure
from miue_jax.settings.errors import UserError
from miue_jax.train import fit, layer_features

# Pixels given to the linear classifier, 256 MB: it sees fewer images where they are large.
_PIXELS = 1 << 26


def options(settings: Measure) -> dict[str, dict[str, Any]]:
  """Returns the options of every estimator of the settings, by its name."""
  return {
    name: {key: getattr(settings, key) for key in OPTIONS[name] if hasattr(settings, key)}
    for name in settings.estimators
  }


def measured(
  experiment: Experiment, released: Split, columns: Row, states: pathlib.Path | None
) -> dict[str, Any]:
  """Estimates the mutual information between features of clean and of released images.

  The victim that learned from the released images extracts the features of images before and after
  the release. All layers come from one pass; images that exceed memory are read in batches.

  Args:
    experiment: The experiment; its settings are `victim`, `victim_fit` and `measure`.
    released: The training images of the victim.
    columns: The columns of the victim's row that identify it.
    states: Folder of the victim's states.

  Returns:
    `settings`, `rows` (estimates, each with its `layer`) and `theory` (one entry, of the features
    that the classifier sees); rows and theory name their `method`.

  Raises:
    UserError: The victim's state is missing or damaged, or it has no such layer.
  """
  config, dataset = experiment.config, experiment.dataset
  settings, shape, seed = config.measure, dataset.train.images.shape[1:], columns["seed"]
  module = models.build(config.victim, dataset.num_classes, shape)
  wanted = layer_features.select(settings.layers, module, shape)
  layers = list(dict.fromkeys((*wanted, layer_features.FEATURES)))
  clean = getattr(dataset, settings.split)
  count = min(settings.samples or len(clean), len(clean))
  chosen = stratified(clean.labels, count, settings.seed, Draw.SAMPLE)
  template = fit.fresh(module, config.victim_fit, dataset.train, seed)
  if (found := Checkpoints(states).restore(template)) is None:
    raise UserError(
      f"The victim trained on {columns['method']!r} is missing in {states}: remove its row (seed "
      f"{seed}) from results.jsonl, if there is one, and run --mode=evaluate."
    )
  _, fitted = found
  if settings.split == "test":
    released = transferred(dataset, released, settings.seed)
  clean, released = clean.take(chosen), released.take(chosen)
  before, after = (
    layer_features.extract(module, layers, fitted.state.variables, part.images)
    for part in (clean, released)
  )
  estimated = experiment.workdir.on_lead(
    lambda: _estimated(clean, released, before, after, wanted, settings)
  )
  name, kind = {"method": columns["method"]}, "training" if settings.split == "train" else "test"
  return {
    "settings": {
      "features": f"{columns['victim']} of seed {seed} of each condition, {kind} images before and "
      "after release",
      "samples": count,
      "std": "over projections",
      "interval": measurement.INTERVAL,
      "null": measurement.NULL,
      "seed": settings.seed,
    },
    "rows": [name | row for row in estimated["rows"]],
    "theory": [name | estimated["theory"] | {"learning": _learning(fitted)}],
  }


def between_files(features: str, released: str, settings: Measure) -> dict[str, Any]:
  """Measures two files of features; needs neither a dataset nor one of our models.

  Args:
    features: `FILE.npz`, or `FILE.npz:ARRAY` if it holds several arrays; features of the clean
      images, `[samples, dx]`.
    released: The same for features of the released images, `[samples, dy]`, in the same order.
    settings: The settings; at most `samples` rows are used, chosen by `seed`; 0 uses all.

  Returns:
    `settings` and `rows`.

  Raises:
    UserError: The files or the features cannot be measured.
  """
  (x_path, x_name), (y_path, y_name) = _array(features), _array(released)
  x, y = feature_files.load(x_path, x_name), feature_files.load(y_path, y_name)
  if len(x) != len(y):
    raise UserError(
      f"{x_path} has {len(x)} rows and {y_path} has {len(y)}: row i of both must belong "
      "to the same image."
    )
  count = len(x)
  if 0 < settings.samples < count:
    order = np.random.default_rng([settings.seed, Draw.SAMPLE]).permutation(count)
    chosen = np.sort(order[: settings.samples])
    x, y = x[chosen], y[chosen]
  return {
    "settings": {
      "features": str(x_path),
      "released": str(y_path),
      "samples": len(x),
      "of": count,
      "seed": settings.seed,
      "interval": measurement.INTERVAL,
      "null": measurement.NULL,
    },
    "rows": measurement.estimates(x, y, options(settings)),
  }


def _array(text: str) -> tuple[pathlib.Path, str]:
  """Returns the two parts of `FILE.npz:ARRAY`; the name of a file may contain a colon."""
  path = pathlib.Path(text)
  if files.exists(path) or ":" not in text:
    return path, ""
  name, _, key = text.rpartition(":")
  return pathlib.Path(name), key


def transferred(dataset: Dataset, released: Split, seed: int) -> Split:
  """Returns the test images, each changed as a random training image of its class was.

  A poison has perturbations for training images only. The features of test images with transferred
  perturbations tell whether a victim learned the perturbations of a class or of single images.

  Args:
    dataset: The clean data.
    released: The training images as published.
    seed: Seed that chooses the training images.

  Raises:
    UserError: A class has test images but no training images.
  """
  train, test = dataset.train, dataset.test_set
  draw = np.random.default_rng([seed, 0x6C656E74]).random(len(test))
  origin = np.empty(len(test), np.int64)
  for label in np.unique(test.labels):
    of_label, candidates = test.labels == label, np.flatnonzero(train.labels == label)
    if not len(candidates):
      raise UserError(
        f"Class {dataset.class_names[label]!r} has test images but no training images: remove "
        "its test images, or add training images."
      )
    origin[of_label] = candidates[(draw[of_label] * len(candidates)).astype(np.int64)]

  def change(ids: np.ndarray, images: np.ndarray) -> np.ndarray:
    rows = origin[ids]
    delta = released.images[rows].astype(np.int16) - train.images[rows]
    return np.clip(images + delta, 0, 255).astype(np.uint8)

  return dataclasses.replace(test, images=test.images.map(change))


def _estimated(
  clean: Split,
  released: Split,
  before: dict[str, np.ndarray],
  after: dict[str, np.ndarray],
  layers: tuple[str, ...],
  settings: Measure,
) -> dict[str, Any]:
  """Estimates the information between clean and released features of each layer, with theory."""
  chosen = options(settings)
  rows = [
    {"layer": name} | row
    for name in layers
    for row in measurement.estimates(before[name], after[name], chosen, keep_going=True)
  ]
  last = before[layer_features.FEATURES], after[layer_features.FEATURES]
  seed = settings.seed
  theory = measurement.geometry(*last, clean.labels, seed)
  rivals = {
    "perturbations": separable(released.images, clean.images, labels=clean.labels, seed=seed),
    "images": separable(released.images, labels=clean.labels, seed=seed),
    "class_means": _class_means(*last, clean.labels),
  }
  return {"rows": rows, "theory": theory | rivals}


def separable(
  released: Images,
  clean: Images | None = None,
  *,
  labels: np.ndarray,
  seed: int,
) -> dict[str, Any] | None:
  """Returns how well a linear classifier tells the classes of images or perturbations apart.

  Args:
    released: Images as published, uint8 `[samples, height, width, channel]`.
    clean: The same images before, for the perturbations; None for the images themselves.
    labels: Integer labels `[samples]`.
    seed: Seed of the chosen examples, where there are too many, and of the held-out ones.

  Returns:
    The fields of `separability.Separability`, or only a `note` where there are too few examples;
    None for images that did not change.
  """
  count = min(len(released), max(1, _PIXELS // int(np.prod(released.shape[1:]))))
  chosen = stratified(labels, count, seed, Draw.SAMPLE)
  inputs = released[chosen]
  if clean is not None:
    inputs = inputs.astype(np.int16) - clean[chosen]
    if not inputs.any():
      return None
  try:
    found = separability.linear_separability(inputs, labels[chosen], seed=seed)
  except UserError as error:
    return {"note": str(error)}
  return dataclasses.asdict(found)


def _class_means(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
  """Returns the distance of two class means relative to the spread of a class, mean over pairs."""
  try:
    found = {
      name: separability.class_distance(features, labels)
      for name, features in (("before", before), ("after", after))
    }
  except UserError as error:
    return {"note": str(error)}
  return {name: round(value, 5) if np.isfinite(value) else None for name, value in found.items()}


def _learning(victim: fit.Fitted) -> dict[str, float | None]:
  """Returns the training loss (nats) after one epoch, and the epochs until it fell by half."""
  loss = sharding.fetch(victim.curve)[:, 0].astype(np.float64)
  half = separability.epochs_to_share(loss)
  return {
    "first_loss": round(float(loss[0]), 5),
    "epochs_to_half": None if half is None else round(half, 2),
  }
