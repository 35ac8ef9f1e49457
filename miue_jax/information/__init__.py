"""Measures mutual information between features, and other explanations of a poison.

`mutual_information` takes two arrays `[samples, features]` and returns an `Estimate` in nats with
its settings, an interval, a null from shuffled pairs and warnings:

  >>> import numpy as np
  >>> from miue_jax import information
  >>> clean, noise = np.random.default_rng(0).standard_normal((2, 1000, 8))
  >>> public = 0.8 * clean + 0.6 * noise
  >>> found = information.mutual_information(clean, public, estimator="histogram", bins=8)
  >>> round(found.mi, 1), found.null.p_value < 0.05, found.settings["projections"]
  (0.4, True, 128)

`ESTIMATORS[name](x, y, **options)` calls one estimator on all features at once:

  histogram  plug-in, for one to three features a side; optionally Miller-Madow's correction
  kde        kernel densities, leave-one-out, for a few features
  knn        nearest neighbours, up to about ten features
  gaussian   as if features were jointly normal
  mine, infonce, nwj   lower bounds by a small network, on held-out samples
  sliced     any of these on random projections, for many features
"""

from miue_jax.information.estimators import (
  ESTIMATORS,
  OPTIONS,
  Estimate,
  Null,
  mutual_information,
)
from miue_jax.information.explanations import Correlation, correlate
from miue_jax.information.separability import (
  Separability,
  class_distance,
  epochs_to_share,
  linear_separability,
)
from miue_jax.information.theory import Bound, ClassTerms, bound, covariance_term

__all__ = [
  "ESTIMATORS",
  "OPTIONS",
  "Bound",
  "ClassTerms",
  "Correlation",
  "Estimate",
  "Null",
  "Separability",
  "bound",
  "class_distance",
  "correlate",
  "covariance_term",
  "epochs_to_share",
  "linear_separability",
  "mutual_information",
]
