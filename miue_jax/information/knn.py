"""Estimates mutual information by nearest neighbours.

This is the first estimator of Kraskov, Stoegbauer and Grassberger (PRE 69, 2004), equation 8. The
distance of two samples is the largest difference of any feature, in standard deviations of that
feature. A k-d tree finds neighbours exactly, in float64.
"""

import os

import numpy as np
from scipy import special
from scipy.spatial import cKDTree

from miue_jax.information import samples
from miue_jax.information.samples import Point
from miue_jax.settings.errors import UserError

# Noise that breaks ties, in standard deviations: far below what matters.
_JITTER = 1e-6
# Number of dimensions of both sides together at which the estimate is known to fail.
_FAR_DIMENSIONS = 10


def point(x: np.ndarray, y: np.ndarray, *, neighbours: int = 3, seed: int = 0) -> Point:
  """Returns the nearest-neighbour estimate (nats) for features `[samples, features]`.

  Args:
    x: Features `[samples, dx]`. Constant ones are dropped.
    y: Features `[samples, dy]`.
    neighbours: Number k of neighbours; more of them mean less variance and more bias.
    seed: Seed of the noise that breaks ties, a millionth of a standard deviation.

  Raises:
    UserError: `neighbours` is out of range.
  """
  if not samples.is_whole(neighbours) or not 1 <= neighbours < len(x):
    raise UserError(
      f"neighbours is {neighbours!r} for {len(x)} samples: choose 1 <= neighbours < samples, an "
      "integer."
    )
  x, y, details, warnings = samples.standardised(x, y)
  dimensions = x.shape[1] + y.shape[1]
  if not x.shape[1] or not y.shape[1]:
    return Point(0.0, details, warnings)
  rng = np.random.default_rng(seed)
  x, y = (side + _JITTER * rng.standard_normal(side.shape) for side in (x, y))
  # Rows that are close to each other in memory are close in the tree: the search is faster.
  order = np.argsort(x[:, 0])
  x, y = x[order], y[order]
  both = np.hstack([x, y])
  nearest, _ = _tree(both).query(both, neighbours + 1, p=np.inf, workers=_workers())
  digamma = special.digamma(np.arange(len(x) + 1))
  counts = [_within(side, np.asarray(nearest)[:, -1]) for side in (x, y)]
  mi = float(
    digamma[neighbours] + digamma[-1] - np.mean(digamma[counts[0]] + digamma[counts[1]], axis=-1)
  )
  ceiling = float(special.digamma(len(x)) - special.digamma(neighbours))
  if dimensions >= _FAR_DIMENSIONS:
    warnings += (
      f"x and y have {dimensions} dimensions together: from about {_FAR_DIMENSIONS} on, all "
      "neighbours are far away and the estimate is too low (for 2,000 samples, 1.0 nats become 0.7 "
      "at 5 and 5, and 2.3 become 0.6 at 16 and 16), so use slices.",
    )
  if mi > ceiling - 1:
    warnings += (
      f"{len(x)} samples cannot show more than {ceiling:.1f} nats: the true value may be far "
      "higher, so use more samples.",
    )
  return Point(mi, details, warnings)


def _tree(rows: np.ndarray) -> cKDTree:
  # In many dimensions a search visits every leaf: larger leaves, at last a single one, cost less.
  leaf = min(10 * 2 ** min(rows.shape[1], 20), len(rows))
  return cKDTree(rows, leafsize=leaf, balanced_tree=False)


def _within(x: np.ndarray, radius: np.ndarray) -> np.ndarray:
  """Returns the number of samples, itself included, strictly nearer than `radius`, `[samples]`."""
  # The neighbour that sets the radius is on the border: rounding must not decide about it.
  radius = radius - 4 * np.finfo(float).eps * (np.abs(x).max(axis=1) + radius)
  if x.shape[1] > 1:
    count = _tree(x).query_ball_point(x, radius, p=np.inf, return_length=True, workers=_workers())
  else:
    # Two binary searches are about ten times faster than a tree.
    values = x[:, 0]
    ascending = np.sort(values)
    count = np.searchsorted(ascending, values + radius, "right") - np.searchsorted(
      ascending, values - radius, "left"
    )
  return np.maximum(count, 1)


def _workers() -> int:
  """Returns the number of cores of this process, which may be fewer than the machine has."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else -1
