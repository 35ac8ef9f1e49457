"""The histogram estimator against closed forms and scikit-learn."""

import jax
import numpy as np
import pytest
from sklearn import metrics

from miue_jax.errors import UserError
from miue_jax.information import histogram

plug_in = jax.jit(histogram.plug_in, static_argnums=2)


def normal_pair(rho, samples, seed=0):
  """Standard normal x and y with correlation rho, float32 `[samples]` each."""
  x, noise = np.random.default_rng(seed).standard_normal((2, samples))
  return x.astype(np.float32), (rho * x + np.sqrt(1 - rho**2) * noise).astype(np.float32)


def digitised_information(x, y, bins):
  """scikit-learn's mutual information of NumPy's two-dimensional histogram, nats."""
  counts, _, _ = np.histogram2d(x.astype(float), y.astype(float), bins)
  return metrics.mutual_info_score(None, None, contingency=counts)


@pytest.mark.parametrize("bins", [2, 5, 16])
def test_identical_symbols_have_the_entropy_of_the_symbols(bins):
  symbols = np.repeat(np.arange(bins, dtype=np.float32), 30)
  assert plug_in(symbols, 1 - symbols / 3, bins) == pytest.approx(np.log(bins), rel=1e-5)


def test_binary_symmetric_channel():
  # 200 symbols, every tenth is flipped: ln 2 - H(0.1).
  sent = np.tile(np.repeat([0.0, 1.0], 10), 10).astype(np.float32)
  received = np.where(np.arange(200) % 10 == 0, 1 - sent, sent)
  expected = np.log(2) + 0.1 * np.log(0.1) + 0.9 * np.log(0.9)
  assert plug_in(sent, received, 2) == pytest.approx(expected, rel=1e-5)


def test_independent_samples_show_the_stated_bias():
  bins, samples, runs = 8, 4000, 60
  values = []
  for seed in range(runs):
    x, y = np.random.default_rng(seed).random((2, samples)).astype(np.float32)
    values.append(float(plug_in(x, y, bins)))
  # 2 N times the estimate is chi-squared with (bins - 1)^2 degrees of freedom.
  freedom = (bins - 1) ** 2
  bias, spread = freedom / (2 * samples), np.sqrt(2 * freedom) / (2 * samples)
  assert np.mean(values) == pytest.approx(bias, abs=4 * spread / np.sqrt(runs))


@pytest.mark.parametrize(("rho", "truth"), [(0.5, 0.1438), (0.75, 0.4133), (0.95, 1.1640)])
def test_bivariate_normal_is_close_to_its_truth(rho, truth):
  # 64 bins over about 9 standard deviations are 0.14 wide: rounding to them acts like uniform noise
  # of standard deviation 0.04 on each side, which costs up to 0.03 nats at rho 0.95. The plug-in
  # bias is less than 63^2 / (2 * 200,000) = 0.01, the sampling error about 0.002.
  x, y = normal_pair(rho, 200_000)
  assert plug_in(x, y, 64) == pytest.approx(truth, abs=0.04)


@pytest.mark.parametrize("bins", [2, 7, 16])
@pytest.mark.parametrize("rho", [0.0, 0.6, 0.99])
def test_agrees_with_scikit_learn_on_the_digitised_data(rho, bins):
  x, y = normal_pair(rho, 3000, seed=bins)
  assert plug_in(x, y, bins) == pytest.approx(digitised_information(x, y, bins), abs=1e-5)


def test_sliced_is_the_mean_over_unit_directions():
  # Equal up to scale, so every projection carries the entropy of its histogram: the estimate of a
  # pair lies between that of independent sides and that of identical ones.
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2000, 6)).astype(np.float32)
  noise = rng.standard_normal(x.shape).astype(np.float32)
  settings = {"projections": 40, "bins": 8, "seed": 0}
  values = [histogram.sliced(x, x + s * noise, **settings) for s in (0.0, 0.3, 1.0, 100.0)]
  estimates = [value.mi for value in values]
  assert estimates == sorted(estimates, reverse=True)
  assert estimates[-1] < 2 * 7**2 / (2 * 2000)
  assert all(value.std > 0 for value in values)
  # Both sides share their directions: scaling either changes nothing.
  scaled = histogram.sliced(x, 5 * x, **settings)
  assert scaled.mi == pytest.approx(estimates[0], rel=1e-3)


def test_sliced_of_one_feature_is_the_estimate_itself():
  x, y = normal_pair(0.8, 1000)
  estimate = histogram.sliced(x[:, None], y[:, None], projections=33, bins=9, seed=1)
  # A direction is +1 or -1, and a mirrored histogram has the same information.
  assert estimate.mi == pytest.approx(digitised_information(x, y, 9), abs=1e-5)
  assert estimate.std < 1e-5


def test_every_projection_counts_over_several_blocks(monkeypatch):
  x = np.random.default_rng(2).standard_normal((200, 3)).astype(np.float32)
  y = x**3
  together = histogram.sliced(x, y, projections=7, bins=4, seed=0)
  monkeypatch.setattr(histogram, "_BLOCK", 3)
  apart = histogram.sliced(x, y, projections=7, bins=4, seed=0)
  assert (apart.mi, apart.std) == pytest.approx((together.mi, together.std), rel=1e-5)


def test_a_constant_feature_carries_nothing():
  x = np.random.default_rng(3).standard_normal((50, 2)).astype(np.float32)
  constant = np.full_like(x, 3)
  estimate = histogram.sliced(x, constant, projections=4, bins=5, seed=0)
  assert abs(estimate.mi) < 1e-6
  assert abs(float(plug_in(constant[:, 0], constant[:, 1], 5))) < 1e-6


@pytest.mark.parametrize(
  ("x", "y", "message"),
  [
    (np.zeros((9, 2)), np.zeros((8, 2)), "shapes"),
    (np.zeros(9), np.zeros(9), "shapes"),
    (np.zeros((3, 2)), np.zeros((3, 2)), "too few"),
    (np.zeros((9, 2)), np.full((9, 2), np.nan), "NaN or infinity"),
    (np.full((9, 2), np.inf), np.zeros((9, 2)), "NaN or infinity"),
  ],
)
def test_unfit_features_are_refused(x, y, message):
  with pytest.raises(UserError, match=message):
    histogram.sliced(x, y, projections=2, bins=4, seed=0)
