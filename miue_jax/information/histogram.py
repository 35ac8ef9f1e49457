"""Estimates mutual information by histograms.

Features of poisoned images are a function of the clean images, so the true mutual information of
continuous features is infinite: every finite value belongs to its bins and projections. Values are
comparable only under the same settings.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from miue_jax.information import samples
from miue_jax.information.samples import Point
from miue_jax.settings.errors import UserError

CORRECTIONS = ("none", "miller_madow")

# An expected bias above this many nats leads to a warning.
_BIAS = 0.1
# A feature that fills less than this share of the bins that it could fill leads to a warning:
# normal values fill 0.6 (2,000 of them) to 0.4 (a million), uniform ones 1.
_FILLED = 0.25
# Counts of one block of columns; 64 MB.
_CELLS = 1 << 24


def point(x: np.ndarray, y: np.ndarray, *, bins: int = 16, correction: str = "none") -> Point:
  """Returns the plug-in estimate (nats) for one to three features a side.

  Every feature is cut into `bins` of equal width between its smallest and its largest value.

  Args:
    x: Features `[samples, dx]`.
    y: Features `[samples, dy]`.
    bins: Number of bins of each feature.
    correction: `none`, or `miller_madow`, which subtracts the first-order bias
      `(occupied_xy - occupied_x - occupied_y + 1) / (2 samples)` (Miller 1955).

  Raises:
    UserError: There are fewer than two bins or fewer samples than bins, or `correction` is unknown.
  """
  _check(bins, len(x), correction)
  x_cells, y_cells = _cells(x, bins), _cells(y, bins)
  occupied = x_cells.max() + 1, y_cells.max() + 1
  pairs, counts = np.unique(x_cells * occupied[1] + y_cells, return_counts=True)
  joint = counts / len(x)
  x_share, y_share = np.bincount(x_cells) / len(x), np.bincount(y_cells) / len(x)
  independent = x_share[pairs // occupied[1]] * y_share[pairs % occupied[1]]
  mi = float(np.sum(joint * np.log(joint / independent)))
  if correction == "miller_madow":
    mi -= (len(pairs) - sum(occupied) + 1) / (2 * len(x))
  warnings = ()
  bias = (occupied[0] - 1) * (occupied[1] - 1) / (2 * len(x))
  if bias > _BIAS and correction == "none":
    warnings = (
      f"{occupied[0]} x {occupied[1]} occupied bins are many for {len(x)} samples: independent "
      f"features would show up to about {bias:.2f} nats, so use fewer bins, or more samples.",
    )
  elif len(pairs) > len(x) / 2:
    warnings = (
      f"{len(x)} samples fall into {len(pairs)} bins, so most of them are alone and no correction "
      "can repair the bias: use fewer bins, or more samples.",
    )
  for name, side in (("x", x), ("y", y)):
    filled, could = min(
      (_filled(column, bins) for column in side.T), key=lambda pair: pair[0] / pair[1]
    )
    if filled < _FILLED * could:
      warnings += (
        f"A feature of {name} fills effectively {filled:.1f} of {bins} bins (e to the entropy of "
        "its histogram): outliers or long tails stretch the bins, so the estimate may be far too "
        "low; ranks or arcsinh of every feature have the same information.",
      )
  return Point(mi, {"occupied_bins": [int(n) for n in occupied]}, warnings)


@functools.partial(jax.jit, static_argnames=("bins", "correction"))
def columns(x: jax.Array, y: jax.Array, *, bins: int, correction: str = "none") -> jax.Array:
  """Returns the estimate of `point` for every column of `[samples, columns]`, as `[columns]`."""
  chex.assert_rank([x, y], 2)
  chex.assert_equal_shape([x, y])
  total, count = x.shape
  code = _bins(x, bins) * bins + _bins(y, bins)
  code += (bins * bins * jnp.arange(count))[None, :]
  # Sums of products of one-hot bins would be seven times slower on a CPU.
  counts = jnp.zeros(count * bins * bins, jnp.int32).at[code.reshape(-1)].add(1)
  counts = counts.reshape(count, bins, bins)
  joint = counts / total
  independent = jnp.sum(joint, axis=2, keepdims=True) * jnp.sum(joint, axis=1, keepdims=True)
  occupied = counts > 0
  ratio = jnp.where(occupied, joint, 1.0) / jnp.where(occupied, independent, 1.0)
  mi = jnp.sum(joint * jnp.log(ratio), axis=(1, 2))
  if correction == "miller_madow":
    rows, lines = (jnp.sum(jnp.any(occupied, axis=axis), axis=1) for axis in (2, 1))
    mi -= (jnp.sum(occupied, axis=(1, 2)) - rows - lines + 1) / (2 * total)
  return mi


def slice_values(
  x: jax.Array, y: jax.Array, *, bins: int = 16, correction: str = "none"
) -> np.ndarray:
  """Returns `columns`, computed for as many at a time as fit into memory."""
  _check(bins, len(x), correction)
  step = max(_CELLS // bins**2, 1)
  found = [
    np.asarray(columns(x[:, i : i + step], y[:, i : i + step], bins=bins, correction=correction))
    for i in range(0, x.shape[1], step)
  ]
  return np.concatenate(found)


def _check(bins: int, count: int, correction: str) -> None:
  samples.choose("correction", correction, CORRECTIONS)
  samples.whole("bins", bins, 2)
  if count < bins:
    raise UserError(f"{count} samples are too few for {bins} bins: measure more, or use fewer.")


def _bins(values: jax.Array, bins: int) -> jax.Array:
  """Returns the bin of every value of `[samples, columns]`, int32."""
  low, high = (f(values, axis=0, keepdims=True) for f in (jnp.min, jnp.max))
  # A constant sample falls into one bin and carries no information.
  width = jnp.where(high > low, high - low, 1.0)
  return jnp.clip(((values - low) / width * bins).astype(jnp.int32), 0, bins - 1)


def _filled(values: np.ndarray, bins: int) -> tuple[float, float]:
  """Returns the effective number of bins that `[samples]` fill, and the number they could fill.

  The effective number is e to the entropy of the histogram. Repeated values, such as those of a
  binary feature, cannot fill more bins than e to the entropy of the values.
  """

  def effective(counts: np.ndarray) -> float:
    return float(np.exp(stats.entropy(counts)))

  counts, _ = np.histogram(values.astype(np.float64), bins)
  _, repeats = np.unique(values, return_counts=True)
  return effective(counts), min(float(bins), effective(repeats))


def _cells(x: np.ndarray, bins: int) -> np.ndarray:
  """Returns the index of the cell that each row of `[samples, features]` occupies."""
  x = x.astype(np.float64)
  low, width = x.min(axis=0), np.ptp(x, axis=0)
  inside = ((x - low) / np.where(width > 0, width, 1.0) * bins).astype(np.int64)
  cells = np.minimum(inside, bins - 1)
  return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
