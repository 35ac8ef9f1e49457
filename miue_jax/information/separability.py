"""Rival explanations of a poison: how separable it is, how fast it is learned, how far it moves.

Yu et al. (KDD 2022) found that perturbations of most unlearnable examples are linearly separable by
class and proposed that as the reason why they work.
"""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
from sklearn import exceptions, linear_model, model_selection, pipeline, preprocessing

from miue_jax.settings.errors import UserError

_MIN_PER_CLASS = 4


@dataclasses.dataclass(frozen=True)
class Separability:
  """How well a linear classifier tells the classes apart.

  Attributes:
    train_accuracy: percent, on the examples it was fitted to: what "linearly separable" means.
    test_accuracy: percent, on held-out examples: whether the directions are shared by a class.
    chance: percent, for always answering the most frequent class of the held-out examples.
    train_samples: fitted to.
    test_samples: held out.
    converged: whether the fit ended before `max_iterations`.
  """

  train_accuracy: float
  test_accuracy: float
  chance: float
  train_samples: int
  test_samples: int
  converged: bool


@dataclasses.dataclass(frozen=True)
class ClassMeans:
  """Distances between the class means.

  Attributes:
    distance: mean Euclidean distance of two class means.
    relative: that distance divided by the root mean square distance of an example from its class
      mean; infinite where every class is a single point.
  """

  distance: float
  relative: float


def linear_separability(
  inputs: np.ndarray,
  labels: np.ndarray,
  *,
  test_fraction: float = 0.25,
  penalty: float = 1.0,
  max_iterations: int = 200,
  seed: int = 0,
) -> Separability:
  """Logistic regression on standardised inputs, for perturbations alone or poisoned images.

  Args:
    inputs: `[samples, ...]`, flattened.
    labels: integers, `[samples]`, at least two classes of four examples.
    test_fraction: held out, stratified.
    penalty: weight of the squared norm of the coefficients.
    max_iterations: of L-BFGS.
    seed: of the split.

  Raises:
    UserError: shapes that do not fit, fewer than two classes, or too few examples of one.
  """
  inputs, labels = _flat(inputs, labels)
  counts = np.unique(labels, return_counts=True)[1]
  if len(counts) < 2 or counts.min() < _MIN_PER_CLASS:
    raise UserError(
      f"Separability needs two classes of at least {_MIN_PER_CLASS} examples; there are "
      f"{len(counts)}, the smallest of {counts.min()}."
    )
  train_x, test_x, train_y, test_y = model_selection.train_test_split(
    inputs, labels, test_size=test_fraction, stratify=labels, random_state=seed
  )
  regression = linear_model.LogisticRegression(C=1 / penalty, max_iter=max_iterations)
  model = pipeline.make_pipeline(preprocessing.StandardScaler(), regression)
  with warnings.catch_warnings():
    # `converged` says it.
    warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
    model.fit(train_x, train_y)
  return Separability(
    train_accuracy=100 * float(model.score(train_x, train_y)),
    test_accuracy=100 * float(model.score(test_x, test_y)),
    chance=100 * float(np.unique(test_y, return_counts=True)[1].max() / len(test_y)),
    train_samples=len(train_y),
    test_samples=len(test_y),
    converged=bool(np.max(regression.n_iter_) < max_iterations),
  )


def class_means(inputs: np.ndarray, labels: np.ndarray) -> ClassMeans:
  """Distances between class means of perturbations, images or features `[samples, ...]`.

  Raises:
    UserError: shapes that do not fit, or fewer than two classes.
  """
  inputs, labels = _flat(inputs, labels)
  present, index = np.unique(labels, return_inverse=True)
  if len(present) < 2:
    raise UserError("Distances between class means need at least two classes.")
  means = np.stack([inputs[index == i].mean(axis=0, dtype=np.float64) for i in range(len(present))])
  pairs = np.triu_indices(len(present), 1)
  distance = float(np.linalg.norm(means[pairs[0]] - means[pairs[1]], axis=1).mean())
  squared = [
    ((inputs[index == i] - mean) ** 2).sum(dtype=np.float64) for i, mean in enumerate(means)
  ]
  within = float(np.sqrt(sum(squared) / len(inputs)))
  return ClassMeans(distance, distance / within if within > 0 else float("inf"))


def epochs_to_share(train_loss: Sequence[float], share: float = 0.5) -> float | None:
  """Epochs until the training loss is `share` of its first value, between epochs by a line.

  Args:
    train_loss: of every epoch, the first being epoch 1.
    share: of the first value.

  Returns:
    None where it never falls so far.
  """
  loss = np.asarray(train_loss, np.float64)
  below = np.flatnonzero(loss <= share * loss[0])
  if not len(below):
    return None
  after = int(below[0])
  fall = loss[after - 1] - loss[after]
  return after + float((loss[after - 1] - share * loss[0]) / fall)


def _flat(inputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  if inputs.ndim < 2 or labels.shape != inputs.shape[:1]:
    raise UserError(
      f"Inputs have shape {list(inputs.shape)} and labels {list(labels.shape)}: make them "
      "[samples, ...] and [samples]."
    )
  flat = inputs.reshape(len(inputs), -1).astype(np.float32)
  if not np.isfinite(flat).all():
    raise UserError("Inputs hold NaN or infinity: remove those rows.")
  return flat, labels
