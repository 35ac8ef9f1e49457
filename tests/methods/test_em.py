"""EM: cross-entropy of the true class, minimised by both sides."""

import numpy as np
import pytest

from miue_jax import methods
from miue_jax.config import Method
from miue_jax.methods import em


def test_the_objective_is_cross_entropy():
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(0, 3, (9, 4)).astype(np.float32), rng.integers(0, 4, 9)
  found = em.objective(Method())(None, logits, labels, np.ones(9))
  exact = logits.astype(np.float64)
  expected = np.log(np.exp(exact).sum(axis=1)) - exact[np.arange(9), labels]
  assert found == pytest.approx(expected, rel=1e-5)


def test_it_is_in_the_list_of_methods():
  assert methods.METHODS["em"] is em.generate
  assert methods.OBJECTIVES["em"] is em.objective
