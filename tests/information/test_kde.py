"""Tests the kernel estimator against direct leave-one-out densities and closed forms."""

import numpy as np
import pytest
from scipy import special, stats

from benchmarks import closed_forms, tasks
from miue_jax.information import kde
from miue_jax.settings.errors import UserError


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


@pytest.mark.parametrize("bandwidth", kde.BANDWIDTHS)
def test_slices_are_points(bandwidth):
  rng = np.random.default_rng(4)
  x = rng.standard_normal((300, 5))
  y = x * np.arange(5) + rng.standard_normal((300, 5))
  x[:, 1], y[:, 1] = rng.standard_cauchy((2, 300))
  y[:, 2], y[:, 3] = x[:, 2], 2.0
  found = kde.slice_values(x, y, bandwidth=bandwidth)
  one = [kde.point(x[:, [i]], y[:, [i]], bandwidth=bandwidth).mi for i in range(5)]
  np.testing.assert_allclose(found, one, rtol=1e-6, atol=1e-6)
  assert found[3] == 0


def test_samples_far_from_all_others_are_summed_by_their_logarithms():
  x, y = np.random.default_rng(5).standard_cauchy((2, 80, 1))
  count, found = len(x), kde.point(x, y)
  x, y = ((side - side.mean()) / side.std() / found.details["bandwidth"] for side in (x, y))
  logs = [-((side - side.T) ** 2) / 2 for side in (x, y)]
  for one in logs:
    np.fill_diagonal(one, -np.inf)
  joint, *sides = (special.logsumexp(one, axis=1) for one in (logs[0] + logs[1], *logs))
  assert joint.min() < -100  # e to this is 0 in float32
  expected = (joint - sides[0] - sides[1]).mean() + np.log(count - 1)
  assert found.mi == pytest.approx(expected, rel=1e-4)


# Smoothing by a bandwidth h adds noise of variance h^2 to each unit-variance side. The expected
# value is therefore near that of correlation rho / (1 + h^2): the lower end of each tolerance.
@pytest.mark.parametrize("samples", [500, 2000, 5000])
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.75, 0.95])
def test_bivariate_normal_lies_between_its_truth_and_its_smoothed_truth(rho, samples):
  x, y = tasks.normal("", tasks.paired(1, rho)).draw(np.random.default_rng(1), samples)
  found = kde.point(x, y)
  smoothed = closed_forms.bivariate_normal(rho / (1 + found.details["bandwidth"] ** 2))
  error = 0.02 + 2 / np.sqrt(samples)
  assert smoothed - error < found.mi < closed_forms.bivariate_normal(rho) + error


def test_a_narrower_kernel_smooths_less(monkeypatch):
  x, y = tasks.TASKS[3].draw(np.random.default_rng(2), 3000)
  found, width = kde.point(x, y).mi, kde._width
  monkeypatch.setattr(kde, "_width", lambda *settings: 0.5 * width(*settings))
  assert found < kde.point(x, y).mi < 1.3


def test_constant_features_and_many_dimensions_are_reported():
  x = np.random.default_rng(3).standard_normal((200, 3))
  found = kde.point(np.hstack([x, np.ones((200, 1))]), x)
  assert "Dropped 1 constant feature of x" in found.warnings[0]
  assert "6 dimensions together" in found.warnings[1]
  assert kde.point(x, np.ones((200, 1))).mi == 0


def test_an_unknown_bandwidth_is_refused():
  x = np.random.default_rng(0).random((20, 1))
  with pytest.raises(UserError, match="bandwidth is 'x': set it to one of scott, silverman"):
    kde.point(x, x, bandwidth="x")
