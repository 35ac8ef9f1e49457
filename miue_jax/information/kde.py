"""Estimates mutual information by kernel densities.

The estimate is the mean over samples of `ln p(x, y) / (p(x) p(y))`, each density estimated with a
normal kernel from all other samples (Ahmad and Lin 1976). The three densities share one bandwidth
per feature, so that their biases largely cancel (Moon, Rajagopalan and Lall, PRE 52, 1995).
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from miue_jax.information import samples
from miue_jax.information.samples import Point

BANDWIDTHS = ("scott", "silverman")

_PAIRS = 1 << 18  # pairs of a block, which fit into the cache of a core
_UNROLL = 8  # features compared before a block goes back to memory
_RELIABLE_DIMENSIONS = 4
# Sums of kernels below this have lost digits, or all of them, to the smallest number of a float32.
_SMALL = 1e-30


def point(x: np.ndarray, y: np.ndarray, *, bandwidth: str = "scott") -> Point:
  """Returns the kernel estimate (nats) for features `[samples, features]`.

  Args:
    x: Features `[samples, dx]`. Constant ones are dropped.
    y: Features `[samples, dy]`.
    bandwidth: Bandwidth in standard deviations of each feature, with d = dx + dy: `scott`,
      `samples^(-1 / (d + 4))`, or `silverman`, `(samples (d + 2) / 4)^(-1 / (d + 4))`. Both suit
      normal data; smoothing lowers the value of anything with finer structure.

  Raises:
    UserError: `bandwidth` is unknown.
  """
  samples.choose("bandwidth", bandwidth, BANDWIDTHS)
  x, y, details, warnings = samples.standardised(x, y)
  count, dimensions = len(x), x.shape[1] + y.shape[1]
  if not x.shape[1] or not y.shape[1]:
    return Point(0.0, details, warnings)
  width = _width(count, dimensions, bandwidth)
  mi = float(_means(*(side.T[None] / width for side in (x, y)), _rows(count))[0])
  if dimensions > _RELIABLE_DIMENSIONS:
    warnings += (
      f"x and y have {dimensions} dimensions together: above about {_RELIABLE_DIMENSIONS}, a "
      f"kernel reaches few of {count} samples and the estimate is biased, so use slices.",
    )
  return Point(mi, details | {"bandwidth": width}, warnings)


def slice_values(x: ArrayLike, y: ArrayLike, *, bandwidth: str = "scott") -> np.ndarray:
  """Returns `point` of every column of `[samples, columns]`, as `[columns]`, by one program."""
  samples.choose("bandwidth", bandwidth, BANDWIDTHS)
  (x, x_varies), (y, y_varies) = (samples.standardised_columns(np.asarray(s)) for s in (x, y))
  width = _width(x.shape[1], 2, bandwidth)
  found = _means(*(side[:, None] / width for side in (x, y)), _rows(x.shape[1]))
  return np.where(x_varies & y_varies, np.asarray(found, np.float64), 0.0)


def _width(count: int, dimensions: int, bandwidth: str) -> float:
  """Returns the bandwidth, in standard deviations, for `count` samples of `dimensions` values."""
  base = count if bandwidth == "scott" else count * (dimensions + 2) / 4
  return float(base ** (-1 / (dimensions + 4)))


def _rows(count: int) -> int:
  """Returns the number of rows of a block of pairs of `count` samples."""
  return max(1, min(_PAIRS // count, count))


@functools.partial(jax.jit, static_argnames="rows")
def _means(x: jax.Array, y: jax.Array, rows: int) -> jax.Array:
  """Returns the mean of `_log_ratios` of `[slices, d, samples]` over samples, `[slices]`."""
  chex.assert_rank([x, y], 3)
  count = x.shape[-1]
  # The last block starts earlier rather than being shorter; what it repeats is written twice.
  starts = jnp.minimum(jnp.arange(0, count, rows), count - rows)

  def of_slice(sides):
    x, y = sides

    def block(ratios, start):
      new = _log_ratios(x, y, start, rows)
      return jax.lax.dynamic_update_slice_in_dim(ratios, new, start, 0), None

    return jax.lax.scan(block, jnp.zeros(count), starts)[0].mean()

  return jax.lax.map(of_slice, (x, y))


def _log_ratios(x: jax.Array, y: jax.Array, start: jax.Array, rows: int) -> jax.Array:
  """Returns `ln p(x, y) / (p(x) p(y))` at each sample of a block, estimated without that sample."""
  count = x.shape[1]
  itself = (start + jnp.arange(rows))[:, None] == jnp.arange(count)[None, :]
  x_log, y_log = (jnp.where(itself, -jnp.inf, _log_kernel(side, start, rows)) for side in (x, y))
  kernels = jnp.exp(x_log), jnp.exp(y_log)
  joint, *sides = (jnp.sum(kernel, axis=1) for kernel in (kernels[0] * kernels[1], *kernels))

  def of_sums():
    return jnp.log(joint) - jnp.log(sides[0]) - jnp.log(sides[1])

  def of_logarithms():
    joint, *sides = (jax.nn.logsumexp(logs, axis=1) for logs in (x_log + y_log, x_log, y_log))
    return joint - sides[0] - sides[1]

  # A sample far from all others needs logarithms, which take twice as long.
  found = jax.lax.cond(jnp.min(joint) < _SMALL, of_logarithms, of_sums)
  # The norms of the kernels cancel; one of the three counts remains.
  return found + jnp.log(count - 1)


def _log_kernel(x: jax.Array, start: jax.Array, rows: int) -> jax.Array:
  """Returns minus half the squared distance, `[rows, samples]`."""

  def add(total, feature):
    own = jax.lax.dynamic_slice_in_dim(feature, start, rows)
    return total - (own[:, None] - feature[None, :]) ** 2 / 2, None

  return jax.lax.scan(add, jnp.zeros((rows, x.shape[1])), x, unroll=_UNROLL)[0]
