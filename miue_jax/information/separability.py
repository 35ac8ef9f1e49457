"""Measures other explanations of a poison: how separable it is and how fast it is learned.

Yu et al. (KDD 2022) found that perturbations of most unlearnable examples are linearly separable by
class and proposed that as the reason why they work.
"""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike
from sklearn import exceptions, linear_model, model_selection, pipeline, preprocessing

from miue_jax.information import samples
from miue_jax.settings.errors import UserError

_MIN_PER_CLASS = 4
_HELD_OUT = 0.25


@dataclasses.dataclass(frozen=True)
class Separability:
  """The accuracy of a linear classifier of the classes.

  Attributes:
    train_accuracy: Percent of its training examples; 100 means linearly separable.
    test_accuracy: Percent of held-out examples; high if the examples of a class share a pattern.
    chance: Percent of held-out examples in their most frequent class.
    train_samples: Number of training examples.
    test_samples: Number of held-out examples.
    converged: True where the fit ended before `max_iterations`.
  """

  train_accuracy: float
  test_accuracy: float
  chance: float
  train_samples: int
  test_samples: int
  converged: bool


def linear_separability(
  inputs: ArrayLike, labels: ArrayLike, *, max_iterations: int = 200, seed: int = 0
) -> Separability:
  """Fits a logistic regression to standardised perturbations or images.

  Args:
    inputs: Arrays `[samples, ...]`; they are flattened.
    labels: Integer labels `[samples]`, at least two classes of four examples.
    max_iterations: Largest number of iterations of L-BFGS.
    seed: Seed of the split; a quarter of every class is held out.

  Raises:
    UserError: The shapes do not fit, or there are fewer than two classes or too few examples.
  """
  inputs, labels = _flat(inputs, labels)
  counts = np.unique(labels, return_counts=True)[1]
  if len(counts) < 2 or counts.min() < _MIN_PER_CLASS:
    raise UserError(
      f"Separability needs two classes of at least {_MIN_PER_CLASS} examples; there are "
      f"{len(counts)}, the smallest of {counts.min()}."
    )
  train_x, test_x, train_y, test_y = model_selection.train_test_split(
    inputs, labels, test_size=_HELD_OUT, stratify=labels, random_state=seed
  )
  regression = linear_model.LogisticRegression(max_iter=max_iterations)
  model = pipeline.make_pipeline(preprocessing.StandardScaler(), regression)
  with warnings.catch_warnings():
    # The attribute `converged` replaces the warning.
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


def class_distance(inputs: ArrayLike, labels: ArrayLike) -> float:
  """Returns the mean distance of two class means in units of the spread of a class.

  The spread is the root mean square distance of an example from its class mean.

  Args:
    inputs: Arrays `[samples, ...]`; they are flattened.
    labels: Integer labels `[samples]`.

  Returns:
    The ratio; infinite where every class is a single point.

  Raises:
    UserError: The shapes do not fit, or there are fewer than two classes.
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
  return distance / within if within > 0 else float("inf")


def epochs_to_share(train_loss: Sequence[float], share: float = 0.5) -> float | None:
  """Returns the number of epochs until the training loss is `share` of its first value.

  Between two epochs the loss is taken to be linear.

  Args:
    train_loss: Loss of every epoch; the first is epoch 1.
    share: Share of the first value.

  Returns:
    None where the loss never falls so far.

  Raises:
    UserError: There is no epoch, or a loss is NaN or infinite.
  """
  loss = np.asarray(train_loss, np.float64)
  if not loss.size or not np.isfinite(loss).all():
    raise UserError("The training loss needs at least one epoch and no NaN or infinity.")
  below = np.flatnonzero(loss <= share * loss[0])
  if not len(below):
    return None
  if (after := int(below[0])) == 0:
    return 1.0
  fall = loss[after - 1] - loss[after]
  return after + float((loss[after - 1] - share * loss[0]) / fall)


def _flat(inputs: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  inputs, labels = samples.as_array(inputs, "inputs"), samples.classes(labels)
  if inputs.ndim < 2 or labels.shape != inputs.shape[:1]:
    raise UserError(
      f"Inputs have shape {list(inputs.shape)} and labels {list(labels.shape)}: make them "
      "[samples, ...] and [samples]."
    )
  if not inputs.size:
    raise UserError(f"Inputs have shape {list(inputs.shape)}: they are empty; give some.")
  flat = inputs.reshape(len(inputs), -1).astype(np.float32)
  if not np.isfinite(flat).all():
    raise UserError("Inputs hold NaN or infinity: remove those rows.")
  return flat, labels
