"""Tests the Gaussian estimator on normal data, where its value is exact on average."""

import numpy as np
import pytest

from benchmarks import closed_forms, tasks
from miue_jax.information import gaussian
from miue_jax.settings.errors import UserError


@pytest.mark.parametrize(("samples", "features"), [(40, 5), (200, 5), (200, 25), (2000, 25)])
@pytest.mark.parametrize("covariance", [tasks.dense, tasks.paired])
def test_is_unbiased_on_normal_data(samples, features, covariance):
  task = tasks.normal("", covariance(features))
  rng = np.random.default_rng(0)
  values = [gaussian.point(*task.draw(rng, samples)).mi for _ in range(60)]
  error = np.std(values) / np.sqrt(len(values))
  # The correction is exact for every covariance, down to few samples.
  assert np.mean(values) == pytest.approx(task.truth, abs=4 * error)
  assert error < 0.5


@pytest.mark.parametrize("side", [0, 1])
def test_is_invariant_to_invertible_linear_maps(side):
  rng = np.random.default_rng(1)
  pair = list(tasks.normal("", tasks.dense(4)).draw(rng, 300))
  before = gaussian.point(*pair).mi
  pair[side] = pair[side] @ rng.standard_normal((4, 4)) + 1000
  assert gaussian.point(*pair).mi == pytest.approx(before, abs=1e-8)


def test_columns_are_points():
  rng = np.random.default_rng(2)
  x = rng.standard_normal((300, 5))
  y = x * np.arange(5) + rng.standard_normal((300, 5))
  y[:, 3] = 2.0
  for covariance in gaussian.COVARIANCES:
    found = gaussian.slice_values(x, y, covariance=covariance)
    one = [
      gaussian.point(x[:, i : i + 1], y[:, i : i + 1], covariance=covariance).mi for i in range(5)
    ]
    np.testing.assert_allclose(found, one, atol=1e-9)


def test_shrinkage_works_with_fewer_samples_than_features():
  x, y = tasks.normal("", tasks.paired(30)).draw(np.random.default_rng(3), 40)
  with pytest.raises(UserError, match="ledoit_wolf"):
    gaussian.point(x, y)
  found = gaussian.point(x, y, covariance="ledoit_wolf")
  assert 0 < found.details["shrinkage"] <= 1
  assert 0 <= found.mi < 5


def test_a_linear_function_is_called_infinite():
  x = np.random.default_rng(4).standard_normal((100, 2))
  found = gaussian.point(x, 2 * x[:, :1] - 3)
  assert found.mi > 8
  assert "infinite" in found.warnings[0]


def test_only_linear_dependence_is_seen():
  x = np.random.default_rng(5).standard_normal((5000, 1))
  assert abs(gaussian.point(x, x**2).mi) < 0.005
  assert closed_forms.bivariate_normal(0) == 0


def test_constants_and_unknown_settings():
  x = np.random.default_rng(6).standard_normal((50, 2))
  assert gaussian.point(x, np.ones((50, 1))).mi == 0
  with pytest.raises(UserError, match="covariance"):
    gaussian.point(x, x, covariance="diagonal")
