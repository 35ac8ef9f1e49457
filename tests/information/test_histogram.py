"""Tests the histogram estimator against closed forms and scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics

from benchmarks import closed_forms, tasks
from miue_jax.information import estimators, histogram, projection
from miue_jax.settings.errors import UserError


def plug_in(x, y, bins):
  return histogram.columns(x[:, None], y[:, None], bins=bins)[0]


def sliced(x, y, projections, bins, seed=0):
  """Returns the mean estimate and its standard deviation over projections."""
  found = estimators.ESTIMATORS["sliced"](
    x, y, projections=projections, inner={"bins": bins}, seed=seed, bootstrap=0, null=0
  )
  return found.mi, found.details["std_over_slices"]


def normal_pair(rho, samples, seed=0):
  """Returns standard normal x and y with correlation rho, float32 `[samples]` each."""
  x, noise = np.random.default_rng(seed).standard_normal((2, samples))
  return x.astype(np.float32), (rho * x + np.sqrt(1 - rho**2) * noise).astype(np.float32)


def digitised_information(x, y, bins):
  """Returns scikit-learn's mutual information of NumPy's two-dimensional histogram, nats."""
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


# The mean log ratio of N symbols has the standard deviation of one, divided by the root of N. After
# Miller and Madow's correction the bias is of the order of 1 / N^2.
@pytest.mark.parametrize("samples", [500, 5000, 50_000])
@pytest.mark.parametrize(("symbols", "error"), [(2, 0.0), (2, 0.1), (2, 0.5), (7, 0.0), (7, 0.3)])
def test_symbols_through_a_symmetric_channel(symbols, error, samples):
  rng = np.random.default_rng(samples)
  sent = rng.integers(0, symbols, samples)
  wrong = (sent + rng.integers(1, symbols, samples)) % symbols
  received = np.where(rng.random(samples) < error, wrong, sent)
  truth = closed_forms.symmetric_channel(symbols, error)
  found = histogram.point(
    sent[:, None], received[:, None], bins=symbols, correction="miller_madow"
  ).mi
  odds = np.log((1 - error) * (symbols - 1) / error) if error else 0.0
  spread = np.sqrt(error * (1 - error)) * abs(odds)
  assert found == pytest.approx(truth, abs=4 * spread / np.sqrt(samples) + 20 / samples)


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


@pytest.mark.parametrize("bins", [4, 16, 40])
def test_the_truth_of_a_binned_normal_is_found_once_bias_is_subtracted(bins):
  # Compared with the truth of the bins there is no discretisation error: only the sampling error,
  # of standard deviation 0.9 / sqrt(50,000) = 0.004, and a term of 1/N^2 remain.
  x, y = normal_pair(0.75, 50_000, seed=bins)
  low, high = min(x.min(), y.min()), max(x.max(), y.max())
  # Both sides get the same range, so that one list of edges holds for both.
  x, y = (np.concatenate([side, [low, high]])[:, None] for side in (x, y))
  truth = closed_forms.binned_normal(0.75, np.linspace(low, high, bins + 1)[1:-1])
  found = histogram.point(x, y, bins=bins, correction="miller_madow")
  assert found.mi == pytest.approx(truth, abs=0.015)
  assert found.mi < histogram.point(x, y, bins=bins).mi


@pytest.mark.parametrize("samples", [500, 2000, 8000])
def test_miller_madow_removes_the_bias_of_independent_samples(samples):
  bins, runs = 8, 40
  values = {"none": [], "miller_madow": []}
  for seed in range(runs):
    x, y = np.random.default_rng(seed).random((2, samples, 1))
    for correction, found in values.items():
      found.append(histogram.point(x, y, bins=bins, correction=correction).mi)
  freedom = (bins - 1) ** 2
  bias, spread = freedom / (2 * samples), np.sqrt(2 * freedom) / (2 * samples)
  tolerance = 4 * spread / np.sqrt(runs) + freedom / samples**1.5  # the next order of the bias
  assert np.mean(values["none"]) == pytest.approx(bias, abs=tolerance)
  assert np.mean(values["miller_madow"]) == pytest.approx(0, abs=tolerance)


@pytest.mark.parametrize("correction", histogram.CORRECTIONS)
def test_columns_are_points(correction):
  rng = np.random.default_rng(5)
  x = rng.standard_normal((700, 6)).astype(np.float32)
  y = (x + rng.standard_normal(x.shape)).astype(np.float32)
  y[:, 2] = 1.5
  found = histogram.slice_values(x, y, bins=9, correction=correction)
  one = [
    histogram.point(x[:, i : i + 1], y[:, i : i + 1], bins=9, correction=correction).mi
    for i in range(6)
  ]
  # A value within rounding of a border may fall on either side: one sample of 700.
  np.testing.assert_allclose(found, one, atol=5e-3)
  assert found[2] == pytest.approx(0, abs=1e-6)


def test_two_features_are_cut_into_a_grid():
  rng = np.random.default_rng(6)
  x = rng.integers(0, 3, (4000, 2)).astype(float)
  y = (3 * x[:, :1] + x[:, 1:]) % 7
  codes = (3 * x[:, 0] + x[:, 1]).astype(int)
  expected = metrics.mutual_info_score(codes, y[:, 0].astype(int))
  assert histogram.point(x, y, bins=50).mi == pytest.approx(expected, rel=1e-9)


def test_too_many_bins_carry_a_warning_that_names_the_reason():
  x, y = (side[:, None] for side in normal_pair(0.0, 400))
  assert not histogram.point(x, y, bins=5).warnings
  found = histogram.point(x, y, bins=40)
  assert found.mi > 0.5
  assert "occupied bins are many for 400 samples" in found.warnings[0]
  corrected = histogram.point(x, y, bins=300, correction="miller_madow")
  assert "most of them are alone" in corrected.warnings[0]


@pytest.mark.parametrize("dof", [1, 2, 3])
@pytest.mark.parametrize("features", [1, 2])
def test_long_tails_carry_a_warning(features, dof):
  draw = tasks.student("", tasks.paired(features), dof).draw
  for seed in range(3):
    x, y = draw(np.random.default_rng(seed), 2000)
    found = histogram.point(x, y, correction="miller_madow").warnings
    assert sum("long tails stretch the bins" in warning for warning in found) == 2
    assert found[-1].startswith("A feature of y fills effectively ")


SHORT_TAILS = {
  "normal": np.random.Generator.standard_normal,
  "uniform": np.random.Generator.random,
  "exponential": np.random.Generator.standard_exponential,
  "binary": lambda rng, shape: rng.random(shape) < 0.1,
  "counts": lambda rng, shape: rng.poisson(3, shape),
  "constant": lambda rng, shape: np.ones(shape),
  "arcsinh of a Cauchy": lambda rng, shape: np.arcsinh(rng.standard_cauchy(shape)),
}


@pytest.mark.parametrize("bins", [4, 16, 40])
@pytest.mark.parametrize("samples", [200, 20_000])
@pytest.mark.parametrize("name", SHORT_TAILS)
def test_short_tails_carry_none(name, samples, bins):
  x, y = SHORT_TAILS[name](np.random.default_rng(0), (2, samples, 1)).astype(np.float32)
  found = histogram.point(x, y, bins=bins).warnings
  assert not any("long tails" in warning for warning in found)


def test_one_outlier_carries_a_warning_that_counts_the_bins():
  x, y = np.random.default_rng(0).random((2, 1000, 1))
  x[0] = 1e6
  (found,) = histogram.point(x, y, bins=8).warnings
  # 999 of 1,000 values in one bin: e to an entropy of 0.008.
  assert "of x fills effectively 1.0 of 8 bins" in found


@pytest.mark.parametrize(
  ("settings", "message"),
  [({"bins": 1}, "at least 2"), ({"correction": "x"}, "correction"), ({"bins": 99}, "too few")],
)
def test_unfit_settings_are_refused(settings, message):
  x = np.random.default_rng(0).random((50, 1))
  with pytest.raises(UserError, match=message):
    histogram.point(x, x, **settings)


def test_sliced_is_the_mean_over_unit_directions():
  # Equal up to scale, so every projection carries the entropy of its histogram: the estimate of a
  # pair lies between that of independent sides and that of identical ones.
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2000, 6)).astype(np.float32)
  noise = rng.standard_normal(x.shape).astype(np.float32)
  values = [sliced(x, x + s * noise, 40, bins=8) for s in (0.0, 0.3, 1.0, 100.0)]
  estimates = [mi for mi, _ in values]
  assert estimates == sorted(estimates, reverse=True)
  assert estimates[-1] < 2 * 7**2 / (2 * 2000)
  assert all(std > 0 for _, std in values)
  # Both sides share their directions: scaling either changes nothing.
  assert sliced(x, 5 * x, 40, bins=8)[0] == pytest.approx(estimates[0], rel=1e-3)


def test_sliced_of_one_feature_is_the_estimate_itself():
  x, y = normal_pair(0.8, 1000)
  mi, std = sliced(x[:, None], y[:, None], 33, bins=9, seed=1)
  # A direction is +1 or -1, and a mirrored histogram has the same information.
  assert mi == pytest.approx(digitised_information(x, y, 9), abs=1e-5)
  assert std < 1e-5


def test_every_projection_counts_over_several_blocks(monkeypatch):
  x = np.random.default_rng(2).standard_normal((200, 3)).astype(np.float32)
  y = x**3
  together = sliced(x, y, 7, bins=4)
  monkeypatch.setattr(projection, "BLOCK", 3)
  monkeypatch.setattr(histogram, "_CELLS", 2 * 4**2)
  assert sliced(x, y, 7, bins=4) == pytest.approx(together, rel=1e-5)


def test_a_constant_feature_carries_nothing():
  x = np.random.default_rng(3).standard_normal((50, 2)).astype(np.float32)
  constant = np.full_like(x, 3)
  assert abs(sliced(x, constant, 4, bins=5)[0]) < 1e-6
  assert abs(float(plug_in(constant[:, 0], constant[:, 1], 5))) < 1e-6
