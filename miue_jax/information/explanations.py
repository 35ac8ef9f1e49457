"""Correlates explanations of poisons with the accuracy gap, by ranks over poisons."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from miue_jax.settings.errors import UserError

_LEVEL = 0.05
_RESAMPLES = 20_000


@dataclasses.dataclass(frozen=True)
class Correlation:
  """Spearman's rank correlation of one explanation with the accuracy gap.

  Attributes:
    explanation: Name of the explanation.
    rho: Coefficient between -1 and 1; None where it is not defined.
    n: Number of poisons used.
    rows: Names of the poisons used: those for which both values are known.
    p_value: Two-sided p-value of a permutation test on the gaps; None where `rho` is None.
    exact: Whether all permutations were used, and not a random sample of 20,000.
    sentence: The conclusion in plain words.
  """

  explanation: str
  rho: float | None
  n: int
  rows: tuple[str, ...]
  p_value: float | None
  exact: bool
  sentence: str


def correlate(
  rows: Sequence[str],
  gaps: Sequence[float | None],
  explanations: Mapping[str, Sequence[float | None]],
  *,
  seed: int = 0,
) -> list[Correlation]:
  """Returns one `Correlation` for each explanation.

  Args:
    rows: Names of the poisons.
    gaps: Accuracy gap of each poison (points), None or NaN where unknown.
    explanations: Values by name of the explanation, one for each poison, None or NaN where unknown.
    seed: Seed of the permutations, where there are too many to count.

  Raises:
    UserError: The lists have different lengths.
  """
  for name, values in {"the accuracy gap": gaps, **explanations}.items():
    if len(values) != len(rows):
      raise UserError(f"There are {len(rows)} rows but {len(values)} values of {name}.")
  gap = np.array(gaps, np.float64)
  return [
    _correlation(name, rows, gap, np.array(values, np.float64), seed)
    for name, values in explanations.items()
  ]


def _correlation(
  name: str, rows: Sequence[str], gap: np.ndarray, values: np.ndarray, seed: int
) -> Correlation:
  known = np.isfinite(gap) & np.isfinite(values)
  used = tuple(row for row, is_known in zip(rows, known, strict=True) if is_known)
  gap, values, n = gap[known], values[known], int(known.sum())

  def without(sentence: str) -> Correlation:
    return Correlation(name, None, n, used, None, False, sentence)

  if n < 3:
    return without(f"Too few poisons for a correlation ({n}): measure more of them.")
  if np.ptp(gap) == 0 or np.ptp(values) == 0:
    return without(f"All {n} poisons have the same value: there is nothing to correlate.")
  x, y = _standard_ranks(values), _standard_ranks(gap)
  test = stats.permutation_test(
    (y,),
    lambda shuffled, axis: np.sum(x * shuffled, axis=axis),
    permutation_type="pairings",
    vectorized=True,
    n_resamples=_RESAMPLES,
    batch=1000,
    rng=np.random.default_rng(seed),
  )
  rho, p_value = float(test.statistic), float(test.pvalue)
  exact = math.factorial(n) <= _RESAMPLES
  return Correlation(name, rho, n, used, p_value, exact, _sentence(rho, n, p_value))


def _standard_ranks(values: np.ndarray) -> np.ndarray:
  """Returns ranks with mean 0 and length 1: the product of two is Spearman's coefficient."""
  ranks = stats.rankdata(values)
  ranks -= ranks.mean()
  return ranks / np.linalg.norm(ranks)


def _sentence(rho: float, n: int, p_value: float) -> str:
  if 2 / math.factorial(n) > _LEVEL:
    return (
      f"{n} poisons are too few to say anything: even a perfect order of {n} has a p-value of "
      f"{2 / math.factorial(n):.2f}."
    )
  if p_value > _LEVEL:
    return (
      f"No relation is shown: chance alone gives so strong a correlation with probability "
      f"{p_value:.2f} for {n} poisons."
    )
  direction = "larger" if rho > 0 else "smaller"
  small = f"{p_value:.3f}" if p_value >= 0.0005 else "below 0.001"
  return (
    f"Poisons with a {direction} value have a larger gap; chance alone gives so strong a "
    f"correlation with probability {small} for {n} poisons."
  )
