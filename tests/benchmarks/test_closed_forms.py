"""Tests the closed forms against numerical integration and the entropies of SciPy."""

import itertools

import numpy as np
import pytest
from scipy import integrate, stats

from benchmarks import closed_forms


@pytest.mark.parametrize(("rho", "truth"), [(0.5, 0.1438), (0.75, 0.4133), (0.95, 1.1640)])
def test_bivariate_normal(rho, truth):
  covariance = np.array([[1, rho], [rho, 1]])
  assert closed_forms.bivariate_normal(rho) == pytest.approx(truth, abs=5e-5)
  scaled = np.diag([3, 0.2]) @ covariance @ np.diag([3, 0.2])
  assert closed_forms.normal(scaled, 1) == pytest.approx(closed_forms.bivariate_normal(rho))


def test_normal_is_the_difference_of_entropies():
  root = np.random.default_rng(0).standard_normal((5, 5))
  covariance = root @ root.T
  entropies = [
    stats.multivariate_normal(cov=part).entropy()
    for part in (covariance[:2, :2], covariance[2:, 2:], covariance)
  ]
  expected = entropies[0] + entropies[1] - entropies[2]
  assert closed_forms.normal(covariance, 2) == pytest.approx(expected)


@pytest.mark.parametrize("dof", [1, 3, 30])
def test_student_is_the_difference_of_entropies(dof):
  dispersion = np.array([[1, 0.3, 0.5], [0.3, 2, 0.1], [0.5, 0.1, 1]])
  entropies = [
    stats.multivariate_t(shape=part, df=dof).entropy()
    for part in (dispersion[:1, :1], dispersion[1:, 1:], dispersion)
  ]
  expected = entropies[0] + entropies[1] - entropies[2]
  assert closed_forms.student(dispersion, 1, dof) == pytest.approx(expected)


def test_student_of_a_bivariate_cauchy():
  # Kotz and Nadarajah give the closed form ln(8 pi) - 3.
  assert closed_forms.student(np.eye(2), 1, 1) == pytest.approx(np.log(8 * np.pi) - 3)


@pytest.mark.parametrize("width", [0.1, 0.5, 0.75])
def test_additive_uniform_is_the_entropy_of_the_sum_less_that_of_the_noise(width):
  def density(y):
    return max(min(1, y + width) - max(0, y - width), 0) / (2 * width)

  breaks = sorted({-width, width, 1 - width, 1 + width})
  entropy = -sum(
    integrate.quad(lambda y: density(y) * np.log(max(density(y), 1e-300)), low, high)[0]
    for low, high in itertools.pairwise(breaks)
  )
  expected = entropy - np.log(2 * width)
  assert closed_forms.additive_uniform(width) == pytest.approx(expected, rel=1e-6)


def test_additive_uniform_has_its_published_values():
  assert closed_forms.additive_uniform(0.1) == pytest.approx(1.70944, abs=5e-6)
  assert closed_forms.additive_uniform(0.75) == pytest.approx(0.33333, abs=5e-6)


def test_channels():
  assert closed_forms.symmetric_channel(10, 0.0) == pytest.approx(np.log(10))
  joint = np.array([[0.45, 0.05], [0.05, 0.45]])
  assert closed_forms.symmetric_channel(2, 0.1) == pytest.approx(closed_forms.table(joint))
  assert closed_forms.symmetric_channel(4, 0.75) == pytest.approx(0)
  assert closed_forms.table(np.outer([1, 2, 0], [3, 4])) == pytest.approx(0)


@pytest.mark.parametrize("rho", [0.0, 0.6, -0.9])
def test_binned_normal_of_two_bins_has_the_orthant_probabilities(rho):
  quarter = 0.25 + np.arcsin(rho) / (2 * np.pi)
  joint = np.array([[quarter, 0.5 - quarter], [0.5 - quarter, quarter]])
  found = closed_forms.binned_normal(rho, np.array([0.0]))
  assert found == pytest.approx(closed_forms.table(joint), abs=1e-9)


def test_finer_bins_approach_the_normal_from_below():
  values = [closed_forms.binned_normal(0.75, np.linspace(-4, 4, n)) for n in (5, 17, 65, 257)]
  assert values == sorted(values)
  assert values[-1] == pytest.approx(closed_forms.bivariate_normal(0.75), abs=1e-3)


@pytest.mark.parametrize(("d", "truth"), [(2, 0.6931), (3, 0.3069), (16, 0.03444), (128, 0.003953)])
def test_sliced_identity_normal(d, truth):
  assert closed_forms.sliced_identity_normal(d) == pytest.approx(truth, rel=2e-4)
  squared_cosine = stats.beta(0.5, (d - 1) / 2)
  mean = squared_cosine.expect(lambda s: -0.5 * np.log1p(-s))
  assert closed_forms.sliced_identity_normal(d) == pytest.approx(mean, rel=1e-5)
