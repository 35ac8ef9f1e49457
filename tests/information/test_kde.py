"""The kernel estimator against direct leave-one-out densities and closed forms."""

import numpy as np
import pytest
from scipy import stats

from miue_jax.errors import UserError
from miue_jax.information import closed_forms, kde, tasks


@pytest.mark.parametrize("bandwidth", ["scott", "silverman"])
@pytest.mark.parametrize(("dx", "dy"), [(1, 1), (2, 1), (9, 3)])
def test_agrees_with_leave_one_out_densities(dx, dy, bandwidth):
  rng = np.random.default_rng(dx)
  x = rng.standard_normal((60, dx))
  y = x[:, :1] + rng.standard_normal((60, dy))
  count, d = len(x), dx + dy
  x, y = ((side - side.mean(0)) / side.std(0) for side in (x, y))
  base = count if bandwidth == "scott" else count * (d + 2) / 4
  width = base ** (-1 / (d + 4))

  def log_density(data):
    values = []
    for i in range(count):
      rest = np.delete(data, i, axis=0)
      kernels = stats.norm.pdf(data[i], rest, width).prod(axis=1)
      values.append(np.log(kernels.mean()))
    return np.array(values)

  expected = (log_density(np.hstack([x, y])) - log_density(x) - log_density(y)).mean()
  found = kde.point(x, y, bandwidth=bandwidth)
  assert found.mi == pytest.approx(expected, abs=1e-4)
  assert found.details["bandwidth"] == pytest.approx(width)


def test_several_blocks_are_one_sum(monkeypatch):
  x, y = tasks.TASKS[2].draw(np.random.default_rng(0), 501)
  together = kde.point(x, y).mi
  monkeypatch.setattr(kde, "_PAIRS", 501 * 50)
  assert kde.point(x, y).mi == pytest.approx(together, abs=1e-6)


# Smoothing by a bandwidth h adds noise of variance h^2 to each unit-variance side, so the expected
# value lies near that of correlation rho / (1 + h^2): that is the lower end of each tolerance.
@pytest.mark.parametrize("samples", [500, 2000, 5000])
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.75, 0.95])
def test_bivariate_normal_lies_between_its_truth_and_its_smoothed_truth(rho, samples):
  x, y = tasks.normal("", tasks.paired(1, rho)).draw(np.random.default_rng(1), samples)
  found = kde.point(x, y)
  smoothed = closed_forms.bivariate_normal(rho / (1 + found.details["bandwidth"] ** 2))
  error = 0.02 + 2 / np.sqrt(samples)
  assert smoothed - error < found.mi < closed_forms.bivariate_normal(rho) + error


def test_a_narrower_kernel_smooths_less():
  x, y = tasks.TASKS[3].draw(np.random.default_rng(2), 3000)
  assert kde.point(x, y).mi < kde.point(x, y, scale=0.5).mi < 1.3


def test_constant_features_and_many_dimensions_are_reported():
  x = np.random.default_rng(3).standard_normal((200, 3))
  found = kde.point(np.hstack([x, np.ones((200, 1))]), x)
  assert "Dropped 1 constant feature of x" in found.warnings[0]
  assert "6 dimensions together" in found.warnings[1]
  assert kde.point(x, np.ones((200, 1))).mi == 0


@pytest.mark.parametrize("settings", [{"bandwidth": "x"}, {"scale": 0.0}, {"scale": np.inf}])
def test_unfit_settings_are_refused(settings):
  x = np.random.default_rng(0).random((20, 1))
  with pytest.raises(UserError, match=next(iter(settings))):
    kde.point(x, x, **settings)
