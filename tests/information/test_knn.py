"""Tests Kraskov's estimator against a direct NumPy version, closed forms and scikit-learn."""

import numpy as np
import pytest
from scipy import special
from scipy.spatial import cKDTree
from sklearn import feature_selection

from benchmarks import closed_forms, tasks
from miue_jax.information import knn
from miue_jax.settings.errors import UserError


def naive(x, y, k):
  """Returns equation 8 of the paper from the n x n distances, in float64, without ties."""
  x, y = ((side - side.mean(0)) / side.std(0) for side in (x, y))
  dx, dy = (np.abs(side[:, None] - side[None]).max(-1) for side in (x, y))
  joint = np.maximum(dx, dy)
  np.fill_diagonal(joint, np.inf)
  count = len(x)
  near = np.argsort(joint, axis=1)[:, :k]
  radius = np.take_along_axis(joint, near[:, -1:], axis=1)
  others = ~np.eye(count, dtype=bool)
  inside = [((d < radius) & others).sum(1) + 1 for d in (dx, dy)]
  counts = special.digamma(inside[0]) + special.digamma(inside[1])
  return special.digamma(k) + special.digamma(count) - counts.mean()


@pytest.mark.parametrize(("dx", "dy"), [(1, 1), (2, 1), (3, 3), (5, 4), (12, 9)])
@pytest.mark.parametrize("k", [1, 4])
def test_agrees_with_all_pairs_in_numpy(dx, dy, k):
  rng = np.random.default_rng(dx + dy)
  x = rng.standard_normal((301, dx))
  y = x[:, :1] + rng.standard_normal((301, dy))
  # Jitter of 1e-6 may exchange two points: one of 301 samples counts one more.
  assert knn.point(x, y, neighbours=k).mi == pytest.approx(naive(x, y, k), abs=3e-3)


def columns(samples=400):
  """Returns slices: smooth, correlated, equal, with long tails, with ties, and a constant one."""
  rng = np.random.default_rng(9)
  x = rng.standard_normal((samples, 8))
  y = x * np.arange(8) + rng.standard_normal(x.shape)
  x[:, 1], y[:, 1] = rng.standard_cauchy((2, samples))
  x[:, 2] = rng.integers(0, 3, samples)
  x[:, 3], y[:, 3] = np.maximum(x[:, 3], 0), np.maximum(y[:, 3], 0)
  y[:, 4] = x[:, 4]
  x[:, 5] = 7.0
  x[:, 6], y[:, 6] = rng.integers(0, 2, (2, samples))
  return x, y


def without_ties(x, seed):
  """Returns one feature as the estimator sees it: standardised, with its noise."""
  rng = np.random.default_rng(seed)
  return [(side - side.mean()) / side.std() + 1e-6 * rng.standard_normal(len(side)) for side in x]


@pytest.mark.parametrize("k", [1, 3, 17])
@pytest.mark.parametrize("samples", [20, 400])
def test_every_kind_of_slice_agrees_with_all_pairs_in_numpy(k, samples):
  x, y = columns(samples)
  for i in (0, 1, 2, 3, 4, 6, 7):
    found = knn.point(x[:, [i]], y[:, [i]], neighbours=k, seed=1).mi
    one, other = without_ties((x[:, i], y[:, i]), seed=1)
    assert found == pytest.approx(naive(one[:, None], other[:, None], k), abs=1e-12), i
  assert knn.point(x[:, [5]], y[:, [5]], neighbours=k).mi == 0


@pytest.mark.parametrize("leaf", [1, 10, 400])
@pytest.mark.parametrize("features", [1, 3, 9])
def test_the_size_of_leaves_changes_nothing(features, leaf, monkeypatch):
  x, noise = np.random.default_rng(1).standard_normal((2, 400, features))
  expected = knn.point(x, x + noise).mi
  monkeypatch.setattr(knn, "_tree", lambda rows: cKDTree(rows, leafsize=leaf))
  assert knn.point(x, x + noise).mi == expected


# The bias of KSG 1 for normal variables is below 0.02 at these sizes (figure 4 of its paper); its
# standard deviation is about 1 / sqrt(samples).
@pytest.mark.parametrize("samples", [500, 2000, 10_000])
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.75, 0.95])
def test_bivariate_normal(rho, samples):
  x, y = tasks.normal("", tasks.paired(1, rho)).draw(np.random.default_rng(2), samples)
  truth = closed_forms.bivariate_normal(rho)
  found = knn.point(x, y).mi
  assert found == pytest.approx(truth, abs=0.02 + 3 / np.sqrt(samples))


@pytest.mark.parametrize("width", [0.1, 0.5, 0.75])
def test_additive_uniform(width):
  task = tasks.additive(width)
  x, y = task.draw(np.random.default_rng(3), 5000)
  # The density is flat, but has edges, which cost about 1 / sqrt(samples) of the mass.
  assert knn.point(x, y).mi == pytest.approx(task.truth, abs=0.06)


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9])
def test_agrees_with_scikit_learn_in_one_dimension(rho):
  x, y = tasks.normal("", tasks.paired(1, rho)).draw(np.random.default_rng(4), 3000)
  # scikit-learn cuts off negative estimates.
  (theirs,) = feature_selection.mutual_info_regression(x, y[:, 0], n_neighbors=5)
  assert max(knn.point(x, y, neighbours=5).mi, 0) == pytest.approx(theirs, abs=1e-3)


@pytest.mark.parametrize("symbols", [2, 5])
def test_ties_are_broken_and_identical_symbols_have_their_entropy(symbols):
  x = np.repeat(np.arange(symbols), 2000 // symbols)[:, None]
  # Inside a symbol only independent noise is left, so the estimate is the entropy of the symbols.
  for seed in range(3):
    assert knn.point(x, -x, seed=seed).mi == pytest.approx(np.log(symbols), abs=0.06)


def test_a_seed_decides_the_jitter():
  x = np.random.default_rng(0).integers(0, 4, (400, 1))
  values = [knn.point(x, x // 2, seed=seed).mi for seed in (0, 0, 1)]
  assert values[0] == values[1] != values[2]


def test_constant_features_change_nothing():
  rng = np.random.default_rng(5)
  x = rng.standard_normal((500, 1))
  y = x + rng.standard_normal((500, 1))
  padded = knn.point(np.hstack([x, np.full((500, 30), 7.0)]), y)
  assert padded.mi == pytest.approx(knn.point(x, y).mi, abs=1e-9)
  assert padded.details["dropped_x"] == 30
  assert "Dropped 30 constant features of x" in padded.warnings[0]
  assert knn.point(np.ones((50, 2)), y[:50]).mi == 0


def test_many_dimensions_give_too_low_a_value_and_a_warning():
  task = tasks.normal("", tasks.paired(16, 0.5, 16))
  x, y = task.draw(np.random.default_rng(6), 2000)
  found = knn.point(x, y)
  assert task.truth == pytest.approx(2.30, abs=0.01)
  assert found.mi < 1.0
  assert "from about 10 on" in found.warnings[0]
  assert not knn.point(x[:, :2], y[:, :2]).warnings


def test_a_saturated_estimate_names_the_limit_of_its_samples():
  x = np.random.default_rng(7).standard_normal((1000, 1))
  found = knn.point(x, x)
  assert "cannot show more than" in found.warnings[-1]


@pytest.mark.parametrize("neighbours", [0, 20])
def test_unfit_numbers_of_neighbours_are_refused(neighbours):
  x = np.random.default_rng(0).random((20, 1))
  with pytest.raises(UserError, match=f"neighbours is {neighbours} for 20 samples"):
    knn.point(x, x, neighbours=neighbours)
