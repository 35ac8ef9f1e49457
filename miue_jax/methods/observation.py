"""Mutual information and the theorem's covariance term while a poison is made.

Zhu et al. (ICLR 2026) argue that a poison works because the source model's features of poisoned
images become compact, which lowers the bound of Theorem 5.1 and with it the information between
clean and poisoned features. Whether both fall together can only be seen during generation, while
source model and delta of an epoch exist side by side; keeping them for later would take a model and
a delta of every epoch.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import budget
from miue_jax.data.dataset import Dataset
from miue_jax.data.pool import Draw, stratified
from miue_jax.information import measurement, theory
from miue_jax.machine import processes, sharding
from miue_jax.machine.meshes import AXIS
from miue_jax.settings.config import Config
from miue_jax.settings.errors import UserError
from miue_jax.train import fit, lanes

# Of an observation, nats: in the history and in the log.
NAMES = ("information", "half_log_det")

_BLOCK = 256  # images whose delta is gathered at a time


def epochs(wanted: int, last: int) -> tuple[int, ...]:
  """Epochs, counted from 1, that are observed: at most `wanted`, evenly spaced up to `last`."""
  return tuple(dict.fromkeys(-(-i * last // wanted) for i in range(1, wanted + 1)))


class Observer:
  """Looks at a few training images through the source model, clean and as they would be released.

  Attributes:
    epochs: after whose delta pass it looks.
  """

  def __init__(
    self,
    dataset: Dataset,
    config: Config,
    module: nn.Module,
    layout: lanes.Layout,
    perturbed: np.ndarray,
  ):
    """Reads the images.

    Args:
      dataset: only its training split is used.
      config: `method`, and `measure` for images, epochs and estimates.
      module: the source model.
      layout: where the examples lie.
      perturbed: which of them are, bool `[N]`.

    Raises:
      UserError: fewer images than the estimates need.
    """
    train, measure = dataset.train, config.measure
    count = min(measure.samples or len(train), len(train))
    chosen = stratified(train.labels, count, measure.seed, Draw.SAMPLE)
    labels = train.labels[chosen]
    if count < measure.bins or np.bincount(labels).max() < theory.MIN_SAMPLES:
      raise UserError(
        f"{count} images (measure.samples) are too few to observe generation: measure.epochs needs "
        f"at least measure.bins={measure.bins} of them and {theory.MIN_SAMPLES} of some class."
      )
    self.epochs = epochs(measure.epochs, config.method.epochs)
    self._method, self._measure, self._predict = config.method, measure, fit.Predictor(module)
    self._labels, self._clean, self._perturbed = labels, train.images[chosen], perturbed[chosen]
    rows = np.empty(layout.count, np.int32)
    filled = np.flatnonzero(layout.ids >= 0)
    rows[layout.ids[filled]] = filled
    self._rows = rows[chosen]

  def nothing(self) -> jax.Array:
    """No observation yet: NaN, float32 `[epochs, 2]`, replicated."""
    return sharding.replicate(np.full((len(self.epochs), len(NAMES)), np.nan, np.float32))

  def look(
    self, seen: jax.Array, epoch: int, source: fit.State, delta: jax.Array
  ) -> tuple[jax.Array, dict[str, float]]:
    """Adds the observation of `epoch`; all processes must call this.

    Args:
      seen: as `nothing` returns it.
      epoch: one of `epochs`.
      source: the source model.
      delta: packed, `[rows, H, W, C]` sharded or `[classes, H, W, C]` replicated.

    Returns:
      `seen` with its row, and the row by name.
    """
    before, _ = self._predict(source, self._clean)
    after, _ = self._predict(source, self._released(delta))
    values = processes.from_lead(
      functools.partial(measurement.observation, before, after, self._labels, self._measure)
    )
    rows = np.array(sharding.fetch(seen))
    rows[self.epochs.index(epoch)] = values
    return sharding.replicate(rows), dict(zip(NAMES, values, strict=True))

  def history(self, seen: jax.Array) -> dict[str, list[float]]:
    """What was observed, by name, with the epochs."""
    rows = sharding.fetch(seen).astype(np.float64).round(5)
    there = ~np.isnan(rows).any(axis=1)
    columns = dict(zip(NAMES, rows[there].T.tolist(), strict=True))
    return {"observed_epoch": np.array(self.epochs)[there].tolist()} | columns

  def _released(self, delta: jax.Array) -> np.ndarray:
    """The images as published if generation ended here, uint8 `[samples, H, W, C]`."""
    method, released = self._method, self._clean.copy()
    parts = budget.resolution(method.epsilon_start)
    patterns = sharding.fetch(delta) if method.class_wise else None
    for start in range(0, len(released), _BLOCK):
      block = slice(start, start + _BLOCK)
      if patterns is None:
        # The last block is as long as the others: one shape is one compilation.
        rows = np.resize(self._rows[block], _BLOCK)
        stored = sharding.fetch(_gathered(delta, sharding.replicate(rows)))
        stored = stored[: len(released[block])]
      else:
        stored = patterns[self._labels[block]]
      exact = budget.unpack(stored, parts)
      change = budget.quantise(self._clean[block], exact, method.epsilon, method.rounding)
      change[~self._perturbed[block]] = 0
      released[block] = self._clean[block] + change.astype(np.int16)
    return released


@jax.jit
def _gathered(table: jax.Array, rows: jax.Array) -> jax.Array:
  """Rows of a sharded table on every device; no device holds the others' part of it."""

  def local(table, rows):
    here = rows - jax.lax.axis_index(AXIS) * len(table)
    ours = (here >= 0) & (here < len(table))
    values = table[jnp.clip(here, 0, len(table) - 1)]
    return jax.lax.psum(jnp.where(ours[:, None, None, None], values, 0), AXIS)

  return jax.shard_map(local, in_specs=(jax.P(AXIS), jax.P()), out_specs=jax.P())(table, rows)
