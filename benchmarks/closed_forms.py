"""Mutual information known exactly (nats): what estimators are checked against."""

import numpy as np
from scipy import special


def bivariate_normal(rho: float) -> float:
  """Two jointly normal variables with correlation `rho`: `-ln(1 - rho^2) / 2`."""
  return -0.5 * float(np.log1p(-(rho**2)))


def normal(covariance: np.ndarray, features: int) -> float:
  """Joint normal whose first `features` coordinates are x: `ln(det Sx det Sy / det S) / 2`."""
  joint = np.linalg.slogdet(covariance)[1]
  x = np.linalg.slogdet(covariance[:features, :features])[1]
  y = np.linalg.slogdet(covariance[features:, features:])[1]
  return 0.5 * float(x + y - joint)


def student(dispersion: np.ndarray, features: int, dof: float) -> float:
  """Multivariate Student-t with `dof` degrees of freedom; the first `features` are x.

  The entropies of the three t distributions share their dispersion term with the normal's, so the
  information is that of the normal plus a term of `dof` and the dimensions alone: it is not zero
  for an identity dispersion, because the coordinates share their scale.
  """

  def entropy_without_dispersion(dimensions: int) -> float:
    half = (dof + dimensions) / 2
    return (
      special.gammaln(dof / 2)
      - special.gammaln(half)
      + dimensions / 2 * np.log(dof * np.pi)
      + half * (special.digamma(half) - special.digamma(dof / 2))
    )

  total = len(dispersion)
  shared_scale = (
    entropy_without_dispersion(features)
    + entropy_without_dispersion(total - features)
    - entropy_without_dispersion(total)
  )
  return normal(dispersion, features) + float(shared_scale)


def additive_uniform(width: float) -> float:
  """X ~ U(0, 1) and Y = X + U(-width, width)."""
  return width - float(np.log(2 * width)) if width <= 0.5 else 1 / (4 * width)


def symmetric_channel(symbols: int, error: float) -> float:
  """Equally likely symbols, each replaced with probability `error` by one of the others."""
  return float(
    np.log(symbols)
    + special.xlogy(1 - error, 1 - error)
    + special.xlogy(error, error / max(symbols - 1, 1))
  )


def table(joint: np.ndarray) -> float:
  """Discrete x and y with the joint probabilities (or counts) `[x, y]`."""
  joint = joint / joint.sum()
  independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
  return float(special.rel_entr(joint, independent).sum())


def binned_normal(rho: float, edges: np.ndarray) -> float:
  """Two standard normals with correlation `rho`, each known only by its bin.

  Args:
    rho: between -1 and 1.
    edges: ascending and finite, the same for both; the outer bins reach to infinity.
  """
  inner = np.concatenate([[-9.0], edges, [9.0]])  # a normal is beyond 9 once in 1e19
  nodes, weights = np.polynomial.legendre.leggauss(64)
  low, high = inner[:-1, None], inner[1:, None]
  x = (high + low) / 2 + (high - low) / 2 * nodes
  density = (high - low) / 2 * weights * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
  borders = np.concatenate([[-np.inf], edges, [np.inf]])
  below = special.ndtr((borders - rho * x[..., None]) / np.sqrt(1 - rho**2))
  return table(np.einsum("in,inj->ij", density, np.diff(below, axis=-1)))


def sliced_identity_normal(features: int) -> float:
  """Sliced information of `N(0, I)` with itself along independent directions.

  The squared cosine of two independent directions is Beta(1/2, (d - 1)/2), so the mean of
  `-ln(1 - cos^2) / 2` over them is a difference of digamma functions. At least two features.
  """
  return 0.5 * float(special.digamma(features / 2) - special.digamma((features - 1) / 2))
