"""Estimates mutual information as if features were jointly normal.

The estimate is `ln(det Sx det Sy / det S) / 2` with the covariances Sx of x, Sy of y and S of both.
It sees only linear dependence. If x and y are each normal, it is a lower bound, because the joint
normal has the largest entropy for its covariance; otherwise it can err on either side.
"""

import numpy as np
from jax.typing import ArrayLike
from scipy import special
from sklearn import covariance as sklearn_covariance

from miue_jax.information import samples
from miue_jax.information.samples import Point
from miue_jax.settings.errors import UserError

COVARIANCES = ("empirical", "ledoit_wolf")

# Eigenvalues of a correlation matrix below this are rounding errors of float64.
_FLOOR = 1e-12


def point(x: np.ndarray, y: np.ndarray, *, covariance: str = "empirical") -> Point:
  """Returns the Gaussian estimate (nats) for features `[samples, features]`.

  Args:
    x: Features `[samples, dx]`. Constant ones are dropped.
    y: Features `[samples, dy]`.
    covariance: `empirical` subtracts the bias, which for normal data is known exactly from the
      Wishart distribution. `ledoit_wolf`, for few samples, shrinks the covariance towards the
      identity by scikit-learn's rule and subtracts nothing; shrinking lowers the value.

  Raises:
    UserError: `covariance` is unknown, or there are fewer than dx + dy + 2 samples for the
      empirical one.
  """
  samples.choose("covariance", covariance, COVARIANCES)
  x, y, details, warnings = samples.standardised(x, y)
  count, dx, dy = len(x), x.shape[1], y.shape[1]
  if not dx or not dy:
    return Point(0.0, details, warnings)
  both = np.hstack([x, y])
  if covariance == "ledoit_wolf":
    matrix, shrinkage = sklearn_covariance.ledoit_wolf(both, assume_centered=True)
    details["shrinkage"] = float(shrinkage)
    bias = 0.0
  elif count <= dx + dy + 1:
    raise UserError(
      f"{count} samples are too few for the covariance of {dx + dy} features: measure more, or set "
      "covariance to ledoit_wolf."
    )
  else:
    matrix = both.T @ both / count
    bias = 0.5 * (_wishart(count, dx) + _wishart(count, dy) - _wishart(count, dx + dy))
  logs = [_log_det(matrix[:dx, :dx]), _log_det(matrix[dx:, dx:]), _log_det(matrix)]
  if np.linalg.eigvalsh(matrix)[0] < _FLOOR:
    warnings += (
      "The covariance is singular: some feature is a linear function of others. Where it links x "
      "and y the true information is infinite, and this value only shows the precision of the "
      "numbers.",
    )
  return Point(0.5 * (logs[0] + logs[1] - logs[2]) - bias, details, warnings)


def slice_values(x: ArrayLike, y: ArrayLike, *, covariance: str = "empirical") -> np.ndarray:
  """Returns `point` of every column of `[samples, columns]`, as `[columns]`."""
  x, y = (np.asarray(side, np.float64) for side in (x, y))
  if covariance != "empirical":
    return samples.one_by_one(point, x, y, covariance=covariance)
  x, y = x - x.mean(axis=0), y - y.mean(axis=0)
  scale = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
  constant = scale == 0
  rho = np.abs((x * y).sum(axis=0)) / np.where(constant, 1.0, scale)
  # The eigenvalues of a correlation matrix of two are 1 - |rho| and 1 + |rho|.
  log_det = np.log(np.maximum(1 - rho, _FLOOR)) + np.log1p(rho)
  bias = 0.5 * (2 * _wishart(len(x), 1) - _wishart(len(x), 2))
  return np.where(constant, 0.0, -0.5 * log_det - bias)


def _log_det(matrix: np.ndarray) -> float:
  return float(np.log(np.maximum(np.linalg.eigvalsh(matrix), _FLOOR)).sum())


def _wishart(count: int, features: int) -> float:
  """Returns the mean of `ln det S - ln det Sigma` of a normal's scatter matrix S.

  A term that cancels between the three covariances is left out.
  """
  return float(special.digamma((count - 1 - np.arange(features)) / 2).sum())
