"""Tests every truth against the mean of an independently written density ratio."""

import numpy as np
import pytest
from scipy import stats

from benchmarks import closed_forms, tasks
from benchmarks.tasks import TASKS


def test_there_are_at_least_twenty_with_distinct_names():
  assert len(TASKS) >= 20
  assert len({task.name for task in TASKS}) == len(TASKS)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_samples_are_finite_pairs_that_depend_only_on_the_seed(task):
  x, y = task.draw(np.random.default_rng(1), 500)
  again, _ = task.draw(np.random.default_rng(1), 500)
  assert x.ndim == y.ndim == 2
  assert len(x) == len(y) == 500
  assert np.isfinite(x).all()
  assert np.isfinite(y).all()
  np.testing.assert_array_equal(x, again)
  assert len(np.unique(x, axis=0)) == len(np.unique(y, axis=0)) == 500
  assert task.truth >= 0


@pytest.mark.parametrize(
  ("matrix", "features"), [(tasks.dense(3), 3), (tasks.paired(3), 3), (tasks.dense(2, 0.3), 2)]
)
@pytest.mark.parametrize("dof", [None, 2, 5])
def test_truths_are_means_of_the_log_density_ratio(matrix, features, dof):
  task = tasks.normal("", matrix) if dof is None else tasks.student("", matrix, dof)

  def score(values, part):
    if dof is None:
      return stats.multivariate_normal.logpdf(values, cov=part)
    return stats.multivariate_t.logpdf(values, shape=part, df=dof)

  x, y = task.draw(np.random.default_rng(2), 40_000)
  ratio = (
    score(np.hstack([x, y]), matrix)
    - score(x, matrix[:features, :features])
    - score(y, matrix[features:, features:])
  )
  # This checks the samples, too: another distribution would have another mean.
  assert ratio.mean() == pytest.approx(task.truth, abs=4 * ratio.std() / 200)


def test_paired_and_dense_truths_by_hand():
  pairs = tasks.normal("", tasks.paired(5)).truth
  assert pairs == pytest.approx(2 * closed_forms.bivariate_normal(0.8))
  # The determinant of equal correlations r in n dimensions is (1 - r)^(n - 1) (1 + (n - 1) r).
  five, ten = ((n - 1) * np.log(0.5) + np.log(1 + (n - 1) * 0.5) for n in (5, 10))
  assert tasks.normal("", tasks.dense(5)).truth == pytest.approx(five - ten / 2)


@pytest.mark.parametrize("function", [tasks.half_cube, tasks.wiggly, tasks.bimodal, np.arcsinh])
def test_scalar_maps_are_strictly_increasing(function):
  grid = np.linspace(-5, 5, 2001)
  assert (np.diff(function(grid)) > 0).all()


def test_bimodal_has_the_distribution_of_its_mixture():
  x = tasks.bimodal(np.random.default_rng(3).standard_normal(20_000))

  def share_below(values):
    return 0.3 * stats.norm.cdf(values, -2, 0.5) + 0.7 * stats.norm.cdf(values, 1, 1)

  assert stats.kstest(x, share_below).pvalue > 0.01


def test_swiss_roll_and_spiral_can_be_undone():
  x = np.random.default_rng(4).standard_normal((300, 1))
  rolled = tasks.swiss_roll(x)
  radius = np.linalg.norm(rolled, axis=1) * 4.5 * np.pi  # the angle before scaling
  np.testing.assert_allclose(stats.norm.ppf((radius / (1.5 * np.pi) - 1) / 2), x[:, 0], rtol=1e-6)
  x = np.random.default_rng(5).standard_normal((300, 4))
  turned = tasks.spiral(x)
  np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(x, axis=1))
  angle = np.exp(-1j * (turned**2).sum(axis=1) / 4)
  back = (turned[:, 0] + 1j * turned[:, 1]) * angle
  np.testing.assert_allclose(np.stack([back.real, back.imag], axis=1), x[:, :2], atol=1e-9)
