"""What `measure` looks at: a victim's features of images before and after their release."""

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np

from miue_jax import models
from miue_jax.artefact import features as feature_files
from miue_jax.artefact.poison import Poison
from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.images import Images
from miue_jax.data.sampling import Draw, stratified
from miue_jax.experiment import evaluate
from miue_jax.information import OPTIONS, measurement, separability
from miue_jax.machine import processes, sharding
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.settings.config import Config, Measure
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
  dataset: Dataset, poison: Poison | None, config: Config, checkpoints: pathlib.Path
) -> dict[str, Any]:
  """Estimates mutual information between features of clean and released images, and the theory.

  The features are those of the first seed's victim of each condition: the model that learned from
  the released images looks at an image before and after. All layers come from one pass; images that
  exceed memory are read a batch at a time.

  Args:
    dataset: the clean images.
    poison: made for them; None where no condition needs one.
    config: `victim`, `victim_fit`, `evaluate` and `measure`.
    checkpoints: folder of the victims' states, as given to `evaluate.rows`.

  Returns:
    `settings`, and `rows` (estimates; each names its `layer`) and `theory` (of the features that
    the classifier sees), each naming its `method`.

  Raises:
    UserError: a victim's state is not there or damaged, or it has no such layer.
  """
  settings, shape = config.measure, dataset.train.images.shape[1:]
  module = models.build(config.victim, dataset.num_classes, shape)
  wanted = layer_features.select(settings.layers, module, shape)
  extract = layer_features.Extractor(module, dict.fromkeys((*wanted, layer_features.FEATURES)))
  split = getattr(dataset, settings.split)
  count = min(settings.samples or len(split), len(split))
  chosen = stratified(split.labels, count, settings.seed, Draw.SAMPLE)
  rows, theory = [], []
  for condition in config.evaluate.conditions:
    victim = _victim(dataset, config, module, condition, checkpoints)
    released = evaluate.training_split(condition, dataset, poison, config)
    if settings.split == "test":
      released = lent(dataset, released, settings.seed)
    shown = tuple(part.take(chosen) for part in (split, released))
    before, after = (extract(victim.state.variables, part.images) for part in shown)
    found = processes.from_lead(functools.partial(_found, shown, (before, after), wanted, settings))
    method = {"method": evaluate.method_of(condition, config)}
    rows += [method | row for row in found["rows"]]
    theory.append(method | found["theory"] | {"learning": _learning(victim)})
  kind = "training" if settings.split == "train" else "test"
  return {
    "settings": {
      "features": f"{evaluate.victim_name(config.victim.name, config.victim_fit)} of seed "
      f"{config.evaluate.seeds[0]} of each condition, {kind} images before and after release",
      "samples": count,
      "std": "over projections",
      "interval": measurement.INTERVAL,
      "null": measurement.NULL,
      "seed": settings.seed,
    },
    "rows": rows,
    "theory": theory,
  }


def between_files(
  features: tuple[pathlib.Path, str], released: tuple[pathlib.Path, str], settings: Measure
) -> dict[str, Any]:
  """Measures features that are read from two files.

  Args:
    features: `.npz` file with features of the clean images, `[samples, dx]`, and the name of the
      array, which may be empty where the file holds only one.
    released: The same for features of the released images, `[samples, dy]`, in the same order.
    settings: The settings; at most `samples` rows are used, chosen by `seed`; 0 uses all.

  Returns:
    `settings` and `rows`.

  Raises:
    UserError: The files or the features cannot be measured.
  """
  x, y = feature_files.load(*features), feature_files.load(*released)
  if len(x) != len(y):
    raise UserError(
      f"{features[0]} has {len(x)} rows and {released[0]} has {len(y)}: row i of both must belong "
      "to the same image."
    )
  count = len(x)
  if 0 < settings.samples < count:
    order = np.random.default_rng([settings.seed, Draw.SAMPLE]).permutation(count)
    chosen = np.sort(order[: settings.samples])
    x, y = x[chosen], y[chosen]
  return {
    "settings": {
      "features": str(features[0]),
      "released": str(released[0]),
      "samples": len(x),
      "of": count,
      "seed": settings.seed,
      "interval": measurement.INTERVAL,
      "null": measurement.NULL,
    },
    "rows": measurement.estimates(x, y, options(settings)),
  }


def lent(dataset: Dataset, released: Split, seed: int) -> Split:
  """Test images, each changed as some training image of its class was.

  A poison has a perturbation for each training image and none for others. What a victim makes of
  test images that carry one tells whether it learned the perturbations of a class or of images.

  Args:
    dataset: the clean images.
    released: the training images as published.
    seed: of the lenders.

  Raises:
    UserError: a class has test images but no training images.
  """
  train, test = dataset.train, dataset.test
  draw = np.random.default_rng([seed, 0x6C656E74]).random(len(test))
  lenders = np.empty(len(test), np.int64)
  for label in np.unique(test.labels):
    own, members = test.labels == label, np.flatnonzero(train.labels == label)
    if not len(members):
      raise UserError(f"Class {dataset.class_names[label]!r} has test images alone: remove them.")
    lenders[own] = members[(draw[own] * len(members)).astype(np.int64)]

  def change(ids: np.ndarray, images: np.ndarray) -> np.ndarray:
    rows = lenders[ids]
    delta = released.images[rows].astype(np.int16) - train.images[rows]
    return np.clip(images + delta, 0, 255).astype(np.uint8)

  return dataclasses.replace(test, images=test.images.map(change))


def _found(
  shown: tuple[Split, Split],
  features: tuple[dict[str, np.ndarray], dict[str, np.ndarray]],
  wanted: tuple[str, ...],
  settings: Measure,
) -> dict[str, Any]:
  """What one condition adds, from images and the features of their layers before and after."""
  clean, released = shown
  before, after = features
  chosen = options(settings)
  rows = [
    {"layer": name} | row
    for name in wanted
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
  """Distance of two class means in units of the spread of a class, mean over pairs of classes."""
  try:
    found = {
      name: separability.class_distance(features, labels)
      for name, features in (("before", before), ("after", after))
    }
  except UserError as error:
    return {"note": str(error)}
  return {name: round(value, 5) if np.isfinite(value) else None for name, value in found.items()}


def _learning(victim: fit.Fitted) -> dict[str, float | None]:
  """How fast the victim's training loss fell: nats after one epoch, and epochs until half of it."""
  loss = sharding.fetch(victim.curve)[:, 0].astype(np.float64)
  half = separability.epochs_to_share(loss)
  return {
    "first_loss": round(float(loss[0]), 5),
    "epochs_to_half": None if half is None else round(half, 2),
  }


def _victim(
  dataset: Dataset, config: Config, module, condition: str, checkpoints: pathlib.Path
) -> fit.Fitted:
  """A condition's first victim as it was left."""
  seed = config.evaluate.seeds[0]
  folder = checkpoints / f"{condition}-{seed}"
  fitted = fit.fresh(module, config.victim_fit, dataset.train, seed)
  found = Checkpoints(folder).restore(fitted)
  if found is None:
    raise UserError(
      f"The victim of condition {condition!r} is missing in {folder}: remove its row (seed {seed}) "
      "from results.jsonl, if there is one, and run --mode=evaluate."
    )
  return found[1]
