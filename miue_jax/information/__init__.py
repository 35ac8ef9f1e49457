"""Mutual information between features, in nats.

`ESTIMATORS[name](x, y, **settings)` takes two arrays `[samples, features]` and returns an
`Estimate` with its settings, an interval, a null from shuffled pairs and warnings:

  histogram  plug-in, for one to three features a side; optionally Miller-Madow's correction
  kde        kernel densities, leave-one-out, for a few features
  knn        Kraskov's estimators 1 and 2, up to about ten features
  gaussian   as if features were jointly normal
  mine, infonce, nwj   lower bounds by a small network, on held-out samples
  sliced     any of these on random projections, for many features
"""

from miue_jax.information.estimators import ESTIMATORS, Estimate

__all__ = ["ESTIMATORS", "Estimate"]
