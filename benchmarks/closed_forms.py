"""Provides closed forms of mutual information (nats), against which estimators are checked."""

import numpy as np
from scipy import special


def bivariate_normal(rho: float) -> float:
  """Returns the information of two normal variables with correlation rho, `-ln(1 - rho^2) / 2`."""
  return -0.5 * float(np.log1p(-(rho**2)))


def normal(covariance: np.ndarray, features: int) -> float:
  """Returns the information of a joint normal distribution, `ln(det Sx det Sy / det S) / 2`.

  Args:
    covariance: Covariance matrix of x and y together.
    features: Number of leading coordinates that form x.
  """
  joint = np.linalg.slogdet(covariance)[1]
  x = np.linalg.slogdet(covariance[:features, :features])[1]
  y = np.linalg.slogdet(covariance[features:, features:])[1]
  return 0.5 * float(x + y - joint)


def student(dispersion: np.ndarray, features: int, dof: float) -> float:
  """Returns the information of a multivariate Student-t distribution.

  The entropies of the three t distributions share their dispersion term with the normal
  distribution. The information is therefore that of the normal distribution plus a term that
  depends on `dof` and the dimensions only. It is not zero for an identity dispersion, because the
  coordinates share their scale.

  Args:
    dispersion: Dispersion matrix of x and y together.
    features: Number of leading coordinates that form x.
    dof: Degrees of freedom.
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
  """Returns the information of X ~ U(0, 1) and Y = X + U(-width, width)."""
  return width - float(np.log(2 * width)) if width <= 0.5 else 1 / (4 * width)


def symmetric_channel(symbols: int, error: float) -> float:
  """Returns the information between the ends of a symmetric channel.

  Args:
    symbols: Number of symbols, which are equally likely.
    error: Probability that a symbol is replaced by one of the others.
  """
  return float(
    np.log(symbols)
    + special.xlogy(1 - error, 1 - error)
    + special.xlogy(error, error / max(symbols - 1, 1))
  )


def table(joint: np.ndarray) -> float:
  """Returns the information of discrete x and y from joint probabilities or counts `[x, y]`."""
  joint = joint / joint.sum()
  independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
  return float(special.rel_entr(joint, independent).sum())


def binned_normal(rho: float, edges: np.ndarray) -> float:
  """Returns the information between the bins of two standard normal variables.

  Args:
    rho: Correlation, between -1 and 1.
    edges: Bin edges of both variables, ascending and finite; the outer bins reach to infinity.
  """
  inner = np.concatenate([[-9.0], edges, [9.0]])  # a normal variable exceeds 9 once in 1e19
  nodes, weights = np.polynomial.legendre.leggauss(64)
  low, high = inner[:-1, None], inner[1:, None]
  x = (high + low) / 2 + (high - low) / 2 * nodes
  density = (high - low) / 2 * weights * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
  borders = np.concatenate([[-np.inf], edges, [np.inf]])
  below = special.ndtr((borders - rho * x[..., None]) / np.sqrt(1 - rho**2))
  return table(np.einsum("in,inj->ij", density, np.diff(below, axis=-1)))


def sliced_identity_normal(features: int) -> float:
  """Returns the sliced information of `N(0, I)` with itself along independent directions.

  The squared cosine of two independent directions is Beta(1/2, (d - 1)/2). The mean of
  `-ln(1 - cos^2) / 2` over them is a difference of digamma functions.

  Args:
    features: Number of features, at least 2.
  """
  return 0.5 * float(special.digamma(features / 2) - special.digamma((features - 1) / 2))
