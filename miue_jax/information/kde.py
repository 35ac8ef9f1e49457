"""Mutual information by kernel densities, leave-one-out.

The mean over samples of `ln p(x, y) / (p(x) p(y))`, each density estimated with a normal kernel
from all other samples (Ahmad and Lin 1976). The three densities share one bandwidth per feature, so
that their biases largely cancel (Moon, Rajagopalan and Lall, PRE 52, 1995).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax.information import samples
from miue_jax.information.samples import Point
from miue_jax.settings.errors import UserError

BANDWIDTHS = ("scott", "silverman")

_PAIRS = 1 << 18  # of a block, which a core's cache holds
_UNROLLED = 8  # features compared before a block goes back to memory
_RELIABLE_DIMENSIONS = 4
# Sums of kernels below this have lost digits, or all of them, to the smallest number of a float32.
_SMALL = 1e-30


def point(x: np.ndarray, y: np.ndarray, *, bandwidth: str = "scott", scale: float = 1.0) -> Point:
  """Kernel mutual information (nats) of features `[samples, features]`.

  Args:
    x: `[samples, dx]`; constant features are dropped.
    y: `[samples, dy]`.
    bandwidth: in standard deviations of each feature, with d = dx + dy: `scott`,
      `samples^(-1 / (d + 4))`, or `silverman`, `(samples (d + 2) / 4)^(-1 / (d + 4))`. Both suit
      normal data; smoothing lowers the value of anything with finer structure.
    scale: factor on the bandwidth.

  Raises:
    UserError: unknown `bandwidth`, or a `scale` that is not positive.
  """
  _check(bandwidth, scale)
  x, y, details, warnings = samples.both_standardised(x, y)
  count, dimensions = len(x), x.shape[1] + y.shape[1]
  if not x.shape[1] or not y.shape[1]:
    return Point(0.0, details, warnings)
  width = _width(count, dimensions, bandwidth, scale)
  mi = float(_means(*(_grouped(side.T[None] / width) for side in (x, y)), _rows(count))[0])
  if dimensions > _RELIABLE_DIMENSIONS:
    warnings += (
      f"x and y have {dimensions} dimensions together: above about {_RELIABLE_DIMENSIONS} a kernel "
      f"reaches few of {count} samples and the estimate is biased, so use slices.",
    )
  return Point(mi, details | {"bandwidth": width}, warnings)


def slice_values(
  x: np.ndarray, y: np.ndarray, *, bandwidth: str = "scott", scale: float = 1.0
) -> np.ndarray:
  """`point` of every column of `[samples, columns]`, as `[columns]`, in one program."""
  _check(bandwidth, scale)
  (x, x_varies), (y, y_varies) = (samples.standardised_columns(np.asarray(s)) for s in (x, y))
  width = _width(x.shape[1], 2, bandwidth, scale)
  found = _means(*(_grouped(side[:, None] / width) for side in (x, y)), _rows(x.shape[1]))
  return np.where(x_varies & y_varies, np.asarray(found, np.float64), 0.0)


def _check(bandwidth: str, scale: float) -> None:
  if bandwidth not in BANDWIDTHS:
    raise UserError(f"bandwidth is {bandwidth!r}: set it to one of {', '.join(BANDWIDTHS)}.")
  if not 0 < scale < np.inf:
    raise UserError(f"scale is {scale}: use a positive factor, 1 for the rule itself.")


def _width(count: int, dimensions: int, bandwidth: str, scale: float) -> float:
  """Bandwidth in standard deviations for `count` samples of so many dimensions in all."""
  base = count if bandwidth == "scott" else count * (dimensions + 2) / 4
  return scale * float(base ** (-1 / (dimensions + 4)))


def _grouped(x: np.ndarray) -> jax.Array:
  """`[slices, features, samples]` -> float32 `[slices, groups, unrolled, samples]`.

  It is padded with features that are 0 everywhere.
  """
  slices, features, count = x.shape
  unrolled = min(_UNROLLED, features)
  groups = -(-features // unrolled)
  out = np.zeros((slices, groups * unrolled, count), np.float32)
  out[:, :features] = x
  return jnp.asarray(out.reshape(slices, groups, unrolled, count))


def _rows(count: int) -> int:
  """Of a block, for so many samples."""
  return max(1, min(_PAIRS // count, count))


@functools.partial(jax.jit, static_argnames="rows")
def _means(x: jax.Array, y: jax.Array, rows: int) -> jax.Array:
  """Mean of `_log_ratios` over samples for many slices, `[slices]`.

  Args:
    x: `[slices, groups, unrolled, samples]`.
    y: the same samples.
    rows: of a block.
  """
  count = x.shape[-1]
  # The last block starts earlier rather than being shorter, and what it repeats is written twice.
  starts = jnp.minimum(jnp.arange(0, count, rows), count - rows)

  def of_slice(sides):
    def block(ratios, start):
      new = _log_ratios(*sides, start, rows)
      return jax.lax.dynamic_update_slice_in_dim(ratios, new, start, 0), None

    return jax.lax.scan(block, jnp.zeros(count), starts)[0].mean()

  return jax.lax.map(of_slice, (x, y))


def _log_ratios(x: jax.Array, y: jax.Array, start: jax.Array, rows: int) -> jax.Array:
  """`ln p(x, y) / (p(x) p(y))` at `rows` samples from `start`, each without itself.

  Args:
    x: `[groups, unrolled, samples]`.
    y: the same samples.
    start: of the block.
    rows: of the block.
  """
  count = x.shape[2]
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
  # The norms of the kernels cancel; what remains of the three counts is one.
  return found + jnp.log(count - 1)


def _log_kernel(x: jax.Array, start: jax.Array, rows: int) -> jax.Array:
  """Minus half the squared distance, `[rows, samples]`."""

  def several(total, group):
    own = jax.lax.dynamic_slice_in_dim(group, start, rows, axis=1)
    for i in range(len(group)):
      total -= (own[i][:, None] - group[i][None, :]) ** 2 / 2
    return total, None

  return jax.lax.scan(several, jnp.zeros((rows, x.shape[2])), x)[0]
