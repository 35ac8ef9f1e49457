"""What `measure` looks at: a victim's features of images before and after their release."""

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np

from miue_jax import models
from miue_jax.artefact.poison import Poison
from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.sampling import Draw, stratified
from miue_jax.experiment import evaluate
from miue_jax.information import measurement, separability
from miue_jax.machine import processes, sharding
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.settings.config import Config, Measure
from miue_jax.settings.errors import UserError
from miue_jax.train import fit, layer_features


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
  rows = [
    {"layer": name} | row
    for name in wanted
    for row in measurement.attempted(before[name], after[name], settings)
  ]
  last = before[layer_features.FEATURES], after[layer_features.FEATURES]
  theory = measurement.geometry(*last, clean.labels, settings.seed)
  separable = functools.partial(measurement.separable, labels=clean.labels, seed=settings.seed)
  rivals = {
    "perturbations": separable(released.images, clean.images),
    "images": separable(released.images),
    "class_means": _class_means(*last, clean.labels),
  }
  return {"rows": rows, "theory": theory | rivals}


def _class_means(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
  """Distance of two class means in units of the spread of a class, mean over pairs of classes."""
  try:
    found = {
      name: separability.class_means(features, labels).relative
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
