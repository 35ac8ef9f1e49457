"""Mutual information by kernel densities, leave-one-out.

The mean over samples of `ln p(x, y) / (p(x) p(y))`, each density estimated with a normal kernel
from all other samples (Ahmad and Lin 1976). The three densities share one bandwidth per feature, so
that their biases largely cancel (Moon, Rajagopalan and Lall, PRE 52, 1995).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax.errors import UserError
from miue_jax.information import samples
from miue_jax.information.samples import Point

BANDWIDTHS = ("scott", "silverman")

_PAIRS = 1 << 22  # of a block
_UNROLLED = 8  # features compared before a block goes back to memory
_RELIABLE_DIMENSIONS = 4


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
  if bandwidth not in BANDWIDTHS:
    raise UserError(f"bandwidth is {bandwidth!r}: set it to one of {', '.join(BANDWIDTHS)}.")
  if not 0 < scale < np.inf:
    raise UserError(f"scale is {scale}: use a positive factor, 1 for the rule itself.")
  x, y, details, warnings = samples.both_standardised(x, y)
  count, dimensions = len(x), x.shape[1] + y.shape[1]
  if not x.shape[1] or not y.shape[1]:
    return Point(0.0, details, warnings)
  base = count if bandwidth == "scott" else count * (dimensions + 2) / 4
  width = scale * float(base ** (-1 / (dimensions + 4)))
  x, y = (_grouped(side / width) for side in (x, y))
  rows = max(1, min(_PAIRS // count, count))
  # The last block starts earlier rather than being shorter: one shape, compiled once.
  starts = [min(start, count - rows) for start in range(0, count, rows)]
  ratios = np.empty(count)
  for start in starts:
    ratios[start : start + rows] = _log_ratios(x, y, start, rows)
  if dimensions > _RELIABLE_DIMENSIONS:
    warnings += (
      f"x and y have {dimensions} dimensions together: above about {_RELIABLE_DIMENSIONS} a kernel "
      f"reaches few of {count} samples and the estimate is biased, so use slices.",
    )
  return Point(float(ratios.mean()), details | {"bandwidth": width}, warnings)


def _grouped(x: np.ndarray) -> jax.Array:
  """`[samples, features]` -> float32 `[groups, unrolled, samples]`, padded with equal features."""
  unrolled = min(_UNROLLED, x.shape[1])
  groups = -(-x.shape[1] // unrolled)
  out = np.zeros((groups * unrolled, len(x)), np.float32)
  out[: x.shape[1]] = x.T
  return jnp.asarray(out.reshape(groups, unrolled, len(x)))


@functools.partial(jax.jit, static_argnames="rows")
def _log_ratios(x: jax.Array, y: jax.Array, start: jax.Array, rows: int) -> jax.Array:
  """`ln p(x, y) / (p(x) p(y))` at `rows` samples from `start`, each without itself."""
  count = x.shape[2]
  itself = (start + jnp.arange(rows))[:, None] == jnp.arange(count)[None, :]
  x_log, y_log = (jnp.where(itself, -jnp.inf, _log_kernel(side, start, rows)) for side in (x, y))
  # The norms of the kernels cancel; what remains of the three counts is one.
  joint, *sides = (jax.nn.logsumexp(logs, axis=1) for logs in (x_log + y_log, x_log, y_log))
  return joint - sides[0] - sides[1] + jnp.log(count - 1)


def _log_kernel(x: jax.Array, start: jax.Array, rows: int) -> jax.Array:
  """Minus half the squared distance, `[rows, samples]`."""

  def several(total, group):
    own = jax.lax.dynamic_slice_in_dim(group, start, rows, axis=1)
    for i in range(len(group)):
      total -= (own[i][:, None] - group[i][None, :]) ** 2 / 2
    return total, None

  return jax.lax.scan(several, jnp.zeros((rows, x.shape[2])), x)[0]
