"""Tests rank correlations against SciPy, enumeration by hand, and a table of the paper."""

import itertools
import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from miue_jax.information.explanations import correlate
from miue_jax.settings.errors import UserError

# Accuracy gap and gap of the histogram estimate on CIFAR-10 (Zhu et al., ICLR 2026).
RIVALS = ("EM", "AP", "NTGA", "AR", "SEM", "GUE", "TUE")
ACCURACY_GAP = (70.28, 83.24, 71.34, 77.04, 79.67, 82.41, 83.20)
MI_GAP = (0.0722, 0.1251, 0.0996, 0.1500, 0.1375, 0.1227, 0.1028)


def test_the_rivals_of_the_paper_alone_show_no_relation():
  (found,) = correlate(RIVALS, ACCURACY_GAP, {"MI": MI_GAP})
  assert found.rho == pytest.approx(0.39, abs=0.005)
  assert found.p_value == pytest.approx(0.38, abs=0.02)
  assert (found.n, found.rows, found.exact) == (7, RIVALS, True)
  assert found.sentence.startswith("No relation is shown")
  json.dumps(asdict(found))


@pytest.mark.parametrize("n", [4, 5, 6])
def test_p_value_counts_all_permutations(n):
  rng = np.random.default_rng(n)
  gap, value = rng.standard_normal((2, n))
  rho = stats.spearmanr(gap, value).statistic
  every = [stats.spearmanr(order, value).statistic for order in itertools.permutations(gap)]
  larger, smaller = np.mean(np.array(every) >= rho - 1e-9), np.mean(np.array(every) <= rho + 1e-9)
  (found,) = correlate([str(i) for i in range(n)], gap, {"x": value})
  assert found.rho == pytest.approx(rho)
  assert found.p_value == pytest.approx(min(1, 2 * min(larger, smaller)))


def test_many_rows_are_resampled_by_seed():
  rng = np.random.default_rng(0)
  gap = rng.standard_normal(30)
  names = [str(i) for i in range(30)]
  first, noise = correlate(names, gap, {"a": -(gap**3), "b": rng.standard_normal(30)})
  assert first.rho == pytest.approx(-1)
  assert first.p_value < 0.001
  assert not first.exact
  assert first.sentence.startswith("Poisons with a smaller value have a larger gap")
  assert noise.p_value == pytest.approx(stats.spearmanr(gap, noise_of(30)).pvalue, abs=0.02)
  assert correlate(names, gap, {"a": -(gap**3)})[0] == first


def noise_of(n):
  rng = np.random.default_rng(0)
  rng.standard_normal(n)
  return rng.standard_normal(n)


def test_ties_share_their_rank():
  gap, value = [1, 1, 2, 3, 4], [5, 6, 6, 6, 9]
  (found,) = correlate("abcde", gap, {"x": value})
  assert found.rho == pytest.approx(stats.spearmanr(gap, value).statistic)


def test_only_known_rows_are_used():
  found = correlate("abcdef", [1, 2, None, 4, 5, 6], {"x": [1, 2, 3, float("nan"), 5, 7]})[0]
  assert (found.n, found.rows) == (4, ("a", "b", "e", "f"))
  assert found.rho == pytest.approx(1)
  assert found.sentence.startswith("4 poisons are too few to say anything")
  assert "0.08" in found.sentence


@pytest.mark.parametrize(
  ("gap", "value", "sentence"),
  [
    ([1, 2], [1, 2], "Too few poisons for a correlation (2)"),
    ([1, 2, 3, 4], [5, 5, 5, 5], "same value"),
  ],
)
def test_an_undefined_correlation_has_a_sentence(gap, value, sentence):
  (found,) = correlate([str(i) for i in gap], gap, {"x": value})
  assert found.rho is found.p_value is None
  assert sentence in found.sentence


def test_lists_of_different_lengths_are_refused():
  with pytest.raises(UserError, match="3 rows but 2 values of x"):
    correlate("abc", [1, 2, 3], {"x": [1, 2]})
