"""Mutual information by nearest neighbours (Kraskov, Stoegbauer and Grassberger, PRE 69, 2004).

The distance is the largest difference of any feature, in standard deviations of that feature.
Neighbours are exact: a k-d tree finds them in few dimensions, comparing all pairs block by block
in many, where a tree would visit every leaf. Of many one-dimensional slices together, nearly all
neighbours are found by a compiled walk through the samples in order of x and in order of y, the
others by trees. Nothing holds more than a block of pairs at a time.
"""

import functools
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special
from scipy.spatial import cKDTree

from miue_jax.information import samples
from miue_jax.information.samples import Point
from miue_jax.settings.errors import UserError

# Breaks ties, in standard deviations: far below what matters, just above the step of a float32.
_JITTER = 1e-6
# More dimensions than this in all: comparing all pairs is faster than a tree.
_TREE_DIMENSIONS = 6
# Warned about from this many dimensions on, both sides together.
_FAR_DIMENSIONS = 10
_ROWS, _COLUMNS = 256, 4096  # of a block of pairs
_UNROLLED = 8  # features compared before a block goes back to memory
_GATHER = 4096  # rows whose neighbours are read at a time
# One-dimensional slices that are searched together have so many values: a core's cache holds them.
_VALUES = 1 << 15
# Samples looked at on either side of each, in roots of k times all of them. Where x and y are
# independent and their densities smooth, half a root is enough on average, in one of the orders.
_WINDOW = 0.75
_STEPS = 4  # of a walk before a block goes back to memory
_MANY = 16  # with more neighbours than this slices are searched one after the other


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
  _check(k, variant, len(x))
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
  mi = float(_information(x_count, y_count, k, variant))
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


def slice_values(
  x: np.ndarray, y: np.ndarray, *, k: int = 3, variant: int = 1, seed: int = 0
) -> np.ndarray:
  """`point` of every column of `[samples, columns]`, as `[columns]`, many at a time."""
  x, y = np.asarray(x), np.asarray(y)
  _check(k, variant, len(x))
  if k > _MANY:
    one = functools.partial(point, k=k, variant=variant, seed=seed)
    return samples.one_by_one(one, x[..., None], y[..., None])
  rng = np.random.default_rng(seed)
  (x, x_varies), (y, y_varies) = (samples.standardised_columns(side) for side in (x, y))
  x, y = (side + _JITTER * rng.standard_normal(side.shape[1]) for side in (x, y))
  slices, count = x.shape
  together = max(1, min(_VALUES // count, slices))
  found = []
  for start in range(0, slices, together):
    # The last block repeats a slice rather than being smaller: one shape, compiled once.
    block = np.minimum(np.arange(start, start + together), slices - 1)
    found.append(_information(*_by_walks(x[block], y[block], k, variant), k, variant))
  return np.where(x_varies & y_varies, np.concatenate(found)[:slices], 0.0)


def _check(k: int, variant: int, samples: int) -> None:
  if variant not in (1, 2):
    raise UserError(f"variant is {variant}: set it to 1 or 2.")
  if not 1 <= k < samples:
    raise UserError(f"k is {k} for {samples} samples: choose 1 <= k < samples.")


def _information(x_count: np.ndarray, y_count: np.ndarray, k: int, variant: int) -> np.ndarray:
  """Equation 8 or 9 of the paper from the arguments of its two digamma functions.

  Args:
    x_count: of every sample, int `[..., samples]`.
    y_count: the same.
    k: neighbours.
    variant: 1 or 2.

  Returns:
    nats, `[...]`.
  """
  digamma = special.digamma(np.arange(x_count.shape[-1] + 1))
  own = digamma[k] + digamma[-1] - (1 / k if variant == 2 else 0)
  return own - np.mean(digamma[x_count] + digamma[y_count], axis=-1)


def _by_tree(x: np.ndarray, y: np.ndarray, k: int, variant: int) -> tuple[np.ndarray, np.ndarray]:
  """Arguments of the two digamma functions for every sample, `[samples]` each."""
  radii = _tree_radii(x, y, slice(None), k, variant)
  return tuple(_tree_count(s, r, variant) for s, r in zip((x, y), radii, strict=True))


def _tree_radii(
  x: np.ndarray, y: np.ndarray, rows: slice | np.ndarray, k: int, variant: int
) -> tuple[np.ndarray, np.ndarray]:
  """Distances within which neighbours of some rows are counted in x and in y, `[rows]` each."""
  both = np.hstack([x, y])
  distances, neighbours = cKDTree(both, balanced_tree=False).query(
    both[rows], k + 1, p=np.inf, workers=_workers()
  )
  if variant == 1:
    return distances[:, -1], distances[:, -1]
  return tuple(_reach(side, side[rows], neighbours) for side in (x, y))


def _tree_count(x: np.ndarray, radius: np.ndarray, variant: int) -> np.ndarray:
  """Samples, itself included, strictly nearer than `radius`; for variant 2 others up to it."""
  # The neighbour that sets the radius lies on the border: rounding must not decide about it.
  slack = 4 * np.finfo(float).eps * (np.abs(x).max(axis=1) + radius)
  radius = radius - slack if variant == 1 else radius + slack
  if x.shape[1] > 1:
    count = cKDTree(x).query_ball_point(x, radius, p=np.inf, return_length=True, workers=_workers())
  else:
    # Sorted queries find their place in the cache.
    order = np.argsort(x[:, 0])
    ascending, radius = x[order, 0], radius[order]
    count = np.empty(len(x), np.int64)
    count[order] = np.searchsorted(ascending, ascending + radius, "right") - np.searchsorted(
      ascending, ascending - radius, "left"
    )
  return np.maximum(count - (variant == 2), 1)


def _reach(x: np.ndarray, rows: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
  """Largest distance of each of `rows` to any of its neighbours, which are rows of x; `[rows]`."""
  parts = [slice(start, start + _GATHER) for start in range(0, len(rows), _GATHER)]
  return np.concatenate(
    [np.abs(x[neighbours[part]] - rows[part, None]).max(axis=(1, 2)) for part in parts]
  )


def _workers() -> int:
  """Threads of a tree: as many as this process has cores, which may be fewer than there are."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else -1


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


def _by_walks(x: np.ndarray, y: np.ndarray, k: int, variant: int) -> np.ndarray:
  """`_by_tree` for one feature a side of many slices, `[slices, samples]`: `[2, slices, samples]`.

  A neighbour is near in order of x or in order of y: where samples are dense in the one they are
  sparse in the other. The few for which neither walk is long enough are left to a tree.
  """
  count = x.shape[1]
  steps = math.ceil(min(_WINDOW * math.sqrt(k * count), count - 1) / _STEPS)
  both = np.stack([x, y])
  orders = np.argsort(both, axis=2)
  ascending, other = (np.take_along_axis(side, orders, axis=2) for side in (both, both[::-1]))
  # float64 as in the tree, because the jitter is near the step of a float32.
  with jax.enable_x64(True):
    found = np.empty((3, *both.shape))
    for to, values in zip(found, _walk(ascending, other, k, variant, steps), strict=True):
      np.put_along_axis(to, orders, values, axis=2)
    own, others, known = found
    radii = np.where(known[0] > 0, (own[0], others[0]), (others[1], own[1]))
    left = ~known.any(axis=0)
    for i in np.flatnonzero(left.any(axis=1)):
      rows = np.flatnonzero(left[i])
      radii[:, i, rows] = _tree_radii(x[i, :, None], y[i, :, None], rows, k, variant)
    return np.asarray(_sorted_counts(ascending, both, radii, variant))


@functools.partial(jax.jit, static_argnames=("k", "variant", "steps"))
def _walk(
  x: jax.Array, y: jax.Array, k: int, variant: int, steps: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Radii as `_tree_radii` from the samples that are near in order of x.

  Args:
    x: `[..., samples]`, ascending.
    y: the same samples.
    k: neighbours.
    variant: 1 or 2.
    steps: `_STEPS` samples in both directions each.

  Returns:
    Both radii, and whether no sample further away can be nearer, `[..., samples]` each.
  """
  count = x.shape[-1]
  edge = steps * _STEPS + 1
  # Padding lies too far away to be anyone's neighbour.
  around = [(0, 0)] * (x.ndim - 1) + [(edge, edge)]
  padded = jnp.pad(x, around, constant_values=jnp.inf), jnp.pad(y, around)

  def over(visit, state):
    def several(i, state):
      for step in range(1, _STEPS + 1):
        for shift in (i * _STEPS + step, -i * _STEPS - step):
          there = (jax.lax.dynamic_slice_in_dim(side, edge + shift, count, -1) for side in padded)
          state = visit(state, *(jnp.abs(a - b) for a, b in zip((x, y), there, strict=True)))
      return state

    return jax.lax.fori_loop(0, steps, several, state)

  def nearest(best, *away):
    new, kept = jnp.maximum(*away), []
    for old in best:
      kept.append(jnp.minimum(old, new))
      new = jnp.maximum(old, new)
    return kept

  radius = over(nearest, [jnp.full(x.shape, jnp.inf)] * k)[-1]
  ends = padded[0][..., :count], padded[0][..., 2 * edge :]
  known = radius <= jnp.minimum(*(jnp.abs(x - end) for end in ends))
  if variant == 1:
    return radius, radius, known

  def reach(largest, *away):
    inside = jnp.maximum(*away) <= radius
    return [jnp.where(inside, jnp.maximum(*two), two[0]) for two in zip(largest, away, strict=True)]

  return *over(reach, [jnp.zeros(x.shape)] * 2), known


@functools.partial(jax.jit, static_argnames="variant")
def _sorted_counts(
  ascending: jax.Array, x: jax.Array, radius: jax.Array, variant: int
) -> jax.Array:
  """`_tree_count` of single features, `[..., samples]`; `ascending` is x in order."""
  slack = 4 * jnp.finfo(x.dtype).eps * (jnp.abs(x) + radius)
  radius = radius - slack if variant == 1 else radius + slack
  place = functools.partial(jnp.vectorize, signature="(n),(n)->(n)")
  below = place(functools.partial(jnp.searchsorted, side="left"))(ascending, x - radius)
  above = place(functools.partial(jnp.searchsorted, side="right"))(ascending, x + radius)
  return jnp.maximum(above - below - (variant == 2), 1)
