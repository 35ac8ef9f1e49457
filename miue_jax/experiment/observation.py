"""Measures mutual information and the theorem's covariance term while a poison is made.

Zhu et al. (ICLR 2026) argue that a poison works because the source model's features of poisoned
images become compact, which lowers the bound of Theorem 5.1 and with it the information between
clean and poisoned features. Whether both fall together can only be seen during generation, while
source model and delta of an epoch exist at the same time; a later measurement would need a stored
model and delta for every epoch.
"""

import functools

import numpy as np
import threadpoolctl

from miue_jax import budget, models
from miue_jax.data.images import Images
from miue_jax.data.sampling import Draw, stratified
from miue_jax.experiment.workdir import Experiment
from miue_jax.information import ESTIMATORS, theory
from miue_jax.methods import AlternatingSettings
from miue_jax.methods.delta import Delta, chosen_images
from miue_jax.settings.config import Measure
from miue_jax.settings.errors import UserError
from miue_jax.train import lanes, prediction
from miue_jax.train.step import State

_BLOCK = 256  # images whose delta is gathered at a time


def epochs(wanted: int, last: int) -> tuple[int, ...]:
  """Returns the epochs, from 1, that are observed: at most `wanted`, evenly spaced up to `last`."""
  return tuple(dict.fromkeys(-(-i * last // wanted) for i in range(1, wanted + 1)))


def observed(
  before: np.ndarray, after: np.ndarray, labels: np.ndarray, measure: Measure
) -> tuple[float, float]:
  """Returns the sliced histogram information and the covariance term, both in nats.

  Args:
    before: Features of clean images, `[samples, d]`.
    after: Features of the poisoned images, `[samples, d]`.
    labels: Integer labels `[samples]`.
    measure: The settings; `projections`, `bins` and `seed`.

  Raises:
    UserError: The features cannot be measured.
  """
  found = ESTIMATORS["sliced"](
    before,
    after,
    projections=measure.projections,
    inner={"bins": measure.bins},
    seed=measure.seed,
    bootstrap=0,
    null=0,
  )
  # The matrices of one class are small: threads would mostly wait for each other.
  with threadpoolctl.threadpool_limits(1, user_api="blas"):
    return found.mi, theory.covariance_term(after, labels)


class Observer:
  """Looks at a few training images through the source model, clean and as they would be released.

  Attributes:
    names: Names of what it measures, in nats.
    epochs: Epochs after whose delta pass it looks.
  """

  names: tuple[str, ...] = ("information", "half_log_det")

  def __init__(self, experiment: Experiment):
    """Reads the training images; the lead process will compute the estimates.

    Raises:
      UserError: There are fewer images than the estimates need.
    """
    dataset, config = experiment.dataset, experiment.config
    train, measure, method = dataset.train, config.measure, config.method
    assert isinstance(method, AlternatingSettings), "other methods have no alternating source model"
    count = min(measure.samples or len(train), len(train))
    chosen = stratified(train.labels, count, measure.seed, Draw.SAMPLE)
    labels = train.labels[chosen]
    if count < measure.bins or np.bincount(labels).max() < theory.MIN_SAMPLES:
      raise UserError(
        f"{count} images (measure.samples) are too few to observe generation: measure.epochs needs "
        f"at least measure.bins={measure.bins} of them and {theory.MIN_SAMPLES} of some class."
      )
    self.epochs = epochs(measure.epochs, method.epochs)
    self._method, self._measure, self._chosen = method, measure, chosen
    self._workdir = experiment.workdir
    self._labels, self._clean = labels, train.images[chosen]
    self._perturbed = chosen_images(train.labels, method, config.seed)[chosen]
    self._module = models.build(method.model, dataset.num_classes, train.images.shape[1:])

  def look(self, source: State, delta: Delta, layout: lanes.Layout) -> tuple[float, ...]:
    """Returns the information and the covariance term; all processes must call this."""
    images = Images(self._clean), Images(self._released(delta, layout))
    before, after = (prediction.predict(self._module, source, part)[0] for part in images)
    values = self._workdir.on_lead(
      functools.partial(observed, before, after, self._labels, self._measure)
    )
    return tuple(round(float(value), 5) for value in values)

  def _released(self, delta: Delta, layout: lanes.Layout) -> np.ndarray:
    """Returns the images as published if generation ended here, uint8 `[samples, H, W, C]`."""
    method, released = self._method, self._clean.copy()
    filled = np.flatnonzero(layout.ids >= 0)
    rows = np.empty(layout.count, np.int32)
    rows[layout.ids[filled]] = filled
    rows = rows[self._chosen]
    for start in range(0, len(released), _BLOCK):
      block = slice(start, start + _BLOCK)
      # The last block is as long as the others: one shape is one compilation.
      labels = np.resize(self._labels[block], _BLOCK)
      exact = delta.fetch(np.resize(rows[block], _BLOCK), labels)[: len(released[block])]
      change = budget.quantise(self._clean[block], exact, method.epsilon, method.rounding)
      change[~self._perturbed[block]] = 0
      released[block] = self._clean[block] + change.astype(np.int16)
    return released
