"""Mutual information by nearest neighbours (Kraskov, Stoegbauer and Grassberger, PRE 69, 2004).

The distance is the largest difference of any feature, in standard deviations of that feature.
Neighbours are exact: a k-d tree finds them in few dimensions, comparing all pairs block by block
in many, where a tree would visit every leaf. Neither holds more than a block of pairs at a time.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special
from scipy.spatial import cKDTree

from miue_jax.errors import UserError
from miue_jax.information import samples
from miue_jax.information.samples import Point

# Breaks ties, in standard deviations: far below what matters, just above the step of a float32.
_JITTER = 1e-6
# More dimensions than this in all: comparing all pairs is faster than a tree.
_TREE_DIMENSIONS = 6
# Warned about from this many dimensions on, both sides together.
_FAR_DIMENSIONS = 10
_ROWS, _COLUMNS = 256, 4096  # of a block of pairs
_UNROLLED = 8  # features compared before a block goes back to memory
_GATHER = 4096  # rows whose neighbours are read at a time


def point(x: np.ndarray, y: np.ndarray, *, k: int = 3, variant: int = 1, seed: int = 0) -> Point:
  """k-nearest-neighbour mutual information (nats) of features `[samples, features]`.

  Args:
    x: `[samples, dx]`; constant features are dropped, ties are broken by noise.
    y: `[samples, dy]`.
    k: neighbours; more of them mean less variance and more bias.
    variant: 1 or 2, the estimators of equations 8 and 9 of the paper.
    seed: of the noise that breaks ties, a millionth of a standard deviation.

  Raises:
    UserError: `k` or `variant` out of range.
  """
  if variant not in (1, 2):
    raise UserError(f"variant is {variant}: set it to 1 or 2.")
  if not 1 <= k < len(x):
    raise UserError(f"k is {k} for {len(x)} samples: choose 1 <= k < samples.")
  x, y, details, warnings = samples.both_standardised(x, y)
  dx, dy = x.shape[1], y.shape[1]
  details["neighbours"] = "tree" if dx + dy <= _TREE_DIMENSIONS else "all pairs in blocks"
  if not dx or not dy:
    return Point(0.0, details, warnings)
  rng = np.random.default_rng(seed)
  x, y = (side + _JITTER * rng.standard_normal(side.shape) for side in (x, y))
  # Rows that are near each other in memory are searched near each other in the tree.
  order = np.argsort(x[:, 0])
  x, y = x[order], y[order]
  search = _by_tree if dx + dy <= _TREE_DIMENSIONS else _by_blocks
  x_count, y_count = search(x, y, k, variant)
  mi = float(
    special.digamma(k)
    + special.digamma(len(x))
    - np.mean(special.digamma(x_count) + special.digamma(y_count))
    - (1 / k if variant == 2 else 0)
  )
  ceiling = float(special.digamma(len(x)) - special.digamma(k))
  if dx + dy >= _FAR_DIMENSIONS:
    warnings += (
      f"x and y have {dx + dy} dimensions together: from about {_FAR_DIMENSIONS} on all neighbours "
      "are far away and the estimate is too low (for 2,000 samples 1.0 nats become 0.7 at 5 and 5, "
      "2.3 become 0.6 at 16 and 16), so use slices.",
    )
  if mi > ceiling - 1:
    warnings += (
      f"{len(x)} samples cannot show more than {ceiling:.1f} nats: the true value may be far "
      "higher, so use more samples.",
    )
  return Point(mi, details, warnings)


def _by_tree(x: np.ndarray, y: np.ndarray, k: int, variant: int) -> tuple[np.ndarray, np.ndarray]:
  """Arguments of the two digamma functions for every sample, `[samples]` each."""
  both = np.hstack([x, y])
  distances, neighbours = cKDTree(both, balanced_tree=False).query(
    both, k + 1, p=np.inf, workers=-1
  )
  if variant == 1:
    radii = distances[:, -1], distances[:, -1]
  else:
    radii = _reach(x, neighbours), _reach(y, neighbours)
  return tuple(_tree_count(s, r, variant) for s, r in zip((x, y), radii, strict=True))


def _tree_count(x: np.ndarray, radius: np.ndarray, variant: int) -> np.ndarray:
  """Samples, itself included, strictly nearer than `radius`; for variant 2 others up to it."""
  # The neighbour that sets the radius lies on the border: rounding must not decide about it.
  slack = 4 * np.finfo(float).eps * (np.abs(x).max(axis=1) + radius)
  radius = radius - slack if variant == 1 else radius + slack
  if x.shape[1] > 1:
    count = cKDTree(x).query_ball_point(x, radius, p=np.inf, return_length=True, workers=-1)
  else:
    # Sorted queries find their place in the cache.
    order = np.argsort(x[:, 0])
    ascending, radius = x[order, 0], radius[order]
    count = np.empty(len(x), np.int64)
    count[order] = np.searchsorted(ascending, ascending + radius, "right") - np.searchsorted(
      ascending, ascending - radius, "left"
    )
  return np.maximum(count - (variant == 2), 1)


def _reach(x: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
  """Largest distance to any of the neighbours, `[samples]`."""
  parts = [slice(start, start + _GATHER) for start in range(0, len(x), _GATHER)]
  return np.concatenate(
    [np.abs(x[neighbours[part]] - x[part, None]).max(axis=(1, 2)) for part in parts]
  )


def _by_blocks(x: np.ndarray, y: np.ndarray, k: int, variant: int) -> tuple[np.ndarray, np.ndarray]:
  """`_by_tree` by comparing all pairs, in float32."""
  count = len(x)
  # Padding lies too far away to be anyone's neighbour.
  size = -(-count // min(_COLUMNS, count))
  width = -(-count // size)
  columns = tuple(_padded(side, size * width).reshape(size, width, -1) for side in (x, y))
  found = []
  for start in range(0, count, _ROWS):
    rows = tuple(_padded(side[start : start + _ROWS], _ROWS) for side in (x, y))
    counts = np.asarray(_block_counts(rows, columns, k, variant))
    found.append(counts[:, : min(_ROWS, count - start)])
  x_count, y_count = np.maximum(np.concatenate(found, axis=1) - (variant == 2), 1)
  return x_count, y_count


def _padded(x: np.ndarray, size: int) -> np.ndarray:
  features = -(-x.shape[1] // _UNROLLED) * _UNROLLED
  out = np.zeros((size, features), np.float32)
  out[: len(x), : x.shape[1]] = x
  out[len(x) :] = np.finfo(np.float32).max / 4
  return out


@functools.partial(jax.jit, static_argnames=("k", "variant"))
def _block_counts(rows, columns, k: int, variant: int) -> jax.Array:
  """Counts as in `_tree_count` for x and y, int32 `[2, rows]`.

  Args:
    rows: x and y, `[rows, features]` each.
    columns: x and y of all samples, `[blocks, columns, features]` each.
    k: neighbours.
    variant: 1 or 2.
  """

  def nearest(best, block):
    distances = [_distances(a, b) for a, b in zip(rows, block, strict=True)]
    joint = jnp.maximum(*distances)
    _, chosen = jax.lax.top_k(-joint, min(k + 1, joint.shape[1]))
    new = [jnp.take_along_axis(d, chosen, axis=1) for d in (joint, *distances)]
    merged = [jnp.concatenate(pair, axis=1) for pair in zip(best, new, strict=True)]
    _, chosen = jax.lax.top_k(-merged[0], k + 1)
    return tuple(jnp.take_along_axis(m, chosen, axis=1) for m in merged), None

  far = jnp.full((len(rows[0]), k + 1), jnp.inf)
  (joint, *sides), _ = jax.lax.scan(nearest, (far, far, far), columns)
  radii = [joint] * 2 if variant == 1 else sides
  radii = [jnp.max(radius, axis=1, keepdims=True) for radius in radii]
  within = jnp.less if variant == 1 else jnp.less_equal

  def count(total, block):
    inside = [
      jnp.sum(within(_distances(a, b), radius), axis=1)
      for a, b, radius in zip(rows, block, radii, strict=True)
    ]
    return total + jnp.stack(inside), None

  return jax.lax.scan(count, jnp.zeros((2, len(rows[0])), jnp.int32), columns)[0]


def _distances(rows: jax.Array, columns: jax.Array) -> jax.Array:
  """Largest difference of any feature, `[rows, columns]`."""
  rows, columns = (side.T.reshape(-1, _UNROLLED, len(side)) for side in (rows, columns))

  def several(largest, features):
    a, b = features
    for i in range(_UNROLLED):
      largest = jnp.maximum(largest, jnp.abs(a[i][:, None] - b[i][None, :]))
    return largest, None

  start = jnp.zeros((rows.shape[2], columns.shape[2]))
  return jax.lax.scan(several, start, (rows, columns))[0]
