"""Tests inequalities and invariances of mutual information for every estimator."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from benchmarks import closed_forms, tasks
from miue_jax.information import ESTIMATORS, histogram

POINTWISE = ("histogram", "kde", "knn", "gaussian")
SAMPLES = 1500

settings = hypothesis.settings(max_examples=8, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
rhos = st.floats(0, 0.95)


def pair(rho, seed, samples=SAMPLES, features=1):
  covariance = tasks.paired(features, rho, features)
  return tasks.normal("", covariance).draw(np.random.default_rng(seed), samples)


def mi(name, x, y):
  return ESTIMATORS[name](x, y, bootstrap=0, null=0).mi


@pytest.mark.parametrize("name", POINTWISE)
@settings
@hypothesis.given(rho=rhos, seed=seeds)
def test_symmetry(name, rho, seed):
  x, y = pair(rho, seed)
  # k-NN breaks ties by a jitter of 1e-6, which may exchange neighbours.
  assert mi(name, x, y) == pytest.approx(mi(name, y, x), abs=2e-3)


@pytest.mark.parametrize("name", POINTWISE)
@settings
@hypothesis.given(
  rho=rhos,
  seed=seeds,
  scale=st.floats(1e-6, 1e6),
  shift=st.floats(-100, 100),
  sign=st.sampled_from([-1, 1]),
)
def test_invariance_to_units(name, rho, seed, scale, shift, sign):
  x, y = pair(rho, seed)
  # One of 1,500 samples may be on the other side of a mirrored border of a bin.
  moved = mi(name, x, sign * scale * (y + shift))
  assert moved == pytest.approx(mi(name, x, y), abs=1e-2)


@settings
@hypothesis.given(rho=rhos, seed=seeds)
def test_invariance_of_neighbours_to_monotone_maps(rho, seed):
  x, y = pair(rho, seed)
  # The estimate is only asymptotically invariant; twice its standard deviation is 0.08.
  assert mi("knn", np.arcsinh(x), tasks.wiggly(y)) == pytest.approx(mi("knn", x, y), abs=0.1)


@settings
@hypothesis.given(seed=seeds)
def test_invariance_of_the_truth_to_invertible_linear_maps(seed):
  rng = np.random.default_rng(seed)
  covariance = tasks.dense(3)
  mixing = np.zeros((6, 6))
  mixing[:3, :3], mixing[3:, 3:] = rng.standard_normal((2, 3, 3))
  mapped = closed_forms.normal(mixing @ covariance @ mixing.T, 3)
  assert mapped == pytest.approx(closed_forms.normal(covariance, 3), rel=1e-5)


@settings
@hypothesis.given(
  counts=arrays.arrays(np.int64, (5, 4), elements=st.integers(0, 50)),
  merged=st.tuples(st.integers(0, 4), st.integers(0, 4)),
)
def test_data_processing_of_symbols(counts, merged):
  hypothesis.assume(counts.sum() > 0)
  coarse = counts.copy()
  coarse[merged[0]] += counts[merged[1]]
  if merged[0] != merged[1]:
    coarse[merged[1]] = 0
  else:
    coarse[merged[0]] -= counts[merged[1]]
  assert -1e-12 <= closed_forms.table(coarse) <= closed_forms.table(counts) + 1e-12


@settings
@hypothesis.given(rho=rhos, seed=seeds, bins=st.integers(2, 20))
def test_data_processing_of_bins(rho, seed, bins):
  x, y = pair(rho, seed)
  # Halving every bin is the reverse of a function of the bin.
  coarse, fine = (histogram.point(x, y, bins=n).mi for n in (bins, 2 * bins))
  assert coarse <= fine + 1e-9


@pytest.mark.parametrize("name", POINTWISE)
@settings
@hypothesis.given(rho=st.floats(0.3, 0.95), seed=seeds, noise=st.floats(0.5, 3))
def test_data_processing_by_noise(name, rho, seed, noise):
  x, y = pair(rho, seed)
  noisy = y + noise * np.random.default_rng([seed, 1]).standard_normal(y.shape)
  # The true loss is at least 0.005 nats; the tolerance is four standard deviations of the k-NN
  # estimate, the largest of the four.
  assert mi(name, x, noisy) <= mi(name, x, y) + 0.1


@pytest.mark.parametrize("name", POINTWISE)
@settings
@hypothesis.given(seed=seeds)
def test_monotone_in_noise(name, seed):
  x, noise = np.random.default_rng(seed).standard_normal((2, SAMPLES, 1))
  values = [mi(name, x, x + level * noise) for level in (0.3, 0.7, 1.5, 4.0)]
  # True values 1.25, 0.56, 0.18, 0.03: far apart for every estimator.
  assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("name", POINTWISE)
@settings
@hypothesis.given(seed=seeds)
def test_null_is_near_zero(name, seed):
  x, y = pair(0.0, seed)
  # Plug-in bias of 16 bins is at most 225 / 3000 = 0.075; the others are within 0.08 (k-NN).
  assert abs(mi(name, x, y)) < 0.1


@pytest.mark.parametrize(("name", "tolerance"), [("knn", 0.12), ("gaussian", 0.02), ("kde", 0.15)])
@settings
@hypothesis.given(rho=st.floats(0, 0.8), seed=seeds)
def test_additivity_over_independent_blocks(name, tolerance, rho, seed):
  x, y = pair(rho, seed, features=2)
  apart = sum(mi(name, x[:, i : i + 1], y[:, i : i + 1]) for i in range(2))
  # k-NN and KDE are biased low by up to a tenth of a nat in two dimensions at this size.
  assert mi(name, x, y) == pytest.approx(apart, abs=tolerance)


@settings
@hypothesis.given(rho=st.floats(0, 0.99), other=st.floats(0, 0.99))
def test_additivity_of_the_truth(rho, other):
  covariance = np.eye(4)
  covariance[0, 2] = covariance[2, 0] = rho
  covariance[1, 3] = covariance[3, 1] = other
  apart = closed_forms.bivariate_normal(rho) + closed_forms.bivariate_normal(other)
  assert closed_forms.normal(covariance, 2) == pytest.approx(apart, abs=1e-9)
