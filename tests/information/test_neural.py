"""Tests lower bounds by a network: formulas, corrected gradient, and held-out samples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import closed_forms, tasks
from miue_jax.information import neural
from miue_jax.settings.errors import UserError

BOUNDS = {"mine": neural.mine, "nwj": neural.nwj, "infonce": neural.infonce}


def optimal_scores(rho, samples, seed=0):
  """Returns ln p(x, y) / (p(x) p(y)) of a normal pair, `[samples, samples]`."""
  x, y = tasks.normal("", tasks.paired(1, rho)).draw(np.random.default_rng(seed), samples)
  left = 1 - rho**2
  return (
    rho * x * y.T / left - rho**2 * (x**2 + (y**2).T) / (2 * left) - 0.5 * np.log(left)
  ).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mine", "nwj", "infonce"])
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.75])
def test_bounds_are_tight_at_the_optimal_critic(name, rho):
  # Donsker-Varadhan and InfoNCE at the log density ratio, NWJ at that plus one.
  scores = optimal_scores(rho, 2000) + (1 if name == "nwj" else 0)
  found = float(neural._value(name, jnp.asarray(scores)))
  # Sampling: the ratio has a standard deviation of at most 1 nat over 2,000 pairs.
  assert found == pytest.approx(closed_forms.bivariate_normal(rho), abs=0.07)


@pytest.mark.parametrize("name", ["mine", "nwj"])
def test_bounds_are_their_formulas(name):
  scores = np.random.default_rng(0).standard_normal((6, 6))
  others = scores[~np.eye(6, dtype=bool)]
  expected = {
    "mine": np.trace(scores) / 6 - np.log(np.exp(others).mean()),
    "nwj": np.trace(scores) / 6 - np.exp(others - 1).mean(),
  }
  found = neural._value(name, jnp.asarray(scores, jnp.float32))
  assert float(found) == pytest.approx(expected[name], rel=1e-5)


def test_infonce_is_cross_entropy_and_cannot_exceed_its_limit():
  scores = jnp.asarray(np.random.default_rng(1).standard_normal((7, 7)), jnp.float32)
  expected = np.log(7) + float(jnp.diagonal(jax.nn.log_softmax(scores, axis=1)).mean())
  assert float(neural._value("infonce", scores)) == pytest.approx(expected, rel=1e-5)
  assert float(neural._value("infonce", 100 * jnp.eye(7))) == pytest.approx(np.log(7), rel=1e-4)


def test_the_gradient_of_mine_divides_by_the_moving_average():
  scores = jnp.asarray(np.random.default_rng(2).standard_normal((5, 5)), jnp.float32)
  others = ~np.eye(5, dtype=bool)
  before = 0.7
  now = np.log(np.exp(np.asarray(scores, np.float64))[others].mean())
  after = np.log(0.95 * np.exp(before) + 0.05 * np.exp(now))
  (gradient, average) = jax.grad(
    lambda s: neural._loss("mine", s, jnp.float32(before)), has_aux=True
  )(scores)
  assert float(average) == pytest.approx(after, rel=1e-5)
  expected = np.where(others, np.exp(scores) / 20 / np.exp(after), -1 / 5)
  np.testing.assert_allclose(gradient, expected, rtol=1e-4)
  # The first batch has no average yet: its gradient is that of the bound itself.
  first, average = jax.grad(lambda s: neural._loss("mine", s, jnp.float32(jnp.inf)), has_aux=True)(
    scores
  )
  assert float(average) == pytest.approx(now, rel=1e-5)
  of_bound = jax.grad(lambda s: neural._value("mine", s))(scores)
  np.testing.assert_allclose(first, -of_bound, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_critic_is_a_network_on_the_concatenated_pair():
  x, y = np.random.default_rng(3).standard_normal((2, 4, 3)).astype(np.float32)
  critic = neural.Critic(8)
  params = critic.init(jax.random.key(0), x, y)
  layers = params["params"]
  scores = critic.apply(params, x, y)
  for i in range(4):
    for j in range(4):
      first = np.vstack([layers["Dense_0"]["kernel"], layers["Dense_1"]["kernel"]])
      hidden = np.maximum(np.hstack([x[i], y[j]]) @ first + layers["Dense_0"]["bias"], 0)
      hidden = np.maximum(hidden @ layers["Dense_2"]["kernel"] + layers["Dense_2"]["bias"], 0)
      expected = hidden @ layers["Dense_3"]["kernel"] + layers["Dense_3"]["bias"]
      assert float(scores[i, j]) == pytest.approx(float(expected[0]), rel=1e-4, abs=1e-5)


@pytest.mark.long
def test_held_out_samples_are_not_trained_on(monkeypatch):
  """Checks that a critic that memorises its training pairs gains nothing."""
  rng = np.random.default_rng(4)
  x, y = rng.standard_normal((2, 200, 10))
  seen = []
  train = neural._train

  def watched(*args):
    seen.append(np.asarray(args[4][0]))
    return train(*args)

  monkeypatch.setattr(neural, "_train", watched)
  monkeypatch.setattr(neural, "_CHECK_EVERY", 50)
  monkeypatch.setattr(neural, "LEARNING_RATE", 1e-2)
  found = neural.mine(x, y, critic_steps=150)
  assert all(len(np.unique(part[:, 0])) == 120 for part in seen)
  # 120 pairs in 20 dimensions are memorised; 40 held-out pairs show a value of at most 0.
  assert found.mi < 0.3
  assert found.details["reported_samples"] == 40
  assert "40 held-out samples" in found.warnings[-1]


@pytest.mark.slow
def test_the_step_limit_is_a_warning(monkeypatch):
  monkeypatch.setattr(neural, "_CHECK_EVERY", 10)
  x, y = tasks.TASKS[2].draw(np.random.default_rng(5), 300)
  found = neural.infonce(x, y, critic_steps=20)
  assert found.details["steps_taken"] == 20
  assert "raise critic_steps" in found.warnings[0]


@pytest.mark.slow
def test_a_seed_decides_the_result(monkeypatch):
  monkeypatch.setattr(neural, "_CHECK_EVERY", 10)
  x, y = tasks.TASKS[2].draw(np.random.default_rng(6), 200)
  run = functools.partial(neural.nwj, x, y, critic_steps=20)
  assert run(seed=1).mi == run(seed=1).mi != run(seed=2).mi


@pytest.mark.parametrize("estimator", BOUNDS.values(), ids=BOUNDS)
def test_constants_carry_nothing_and_few_samples_are_refused(estimator):
  x = np.random.default_rng(7).standard_normal((150, 2))
  assert estimator(x, np.ones((150, 1))).mi == 0
  with pytest.raises(UserError, match="too few to train on"):
    estimator(x[:99], x[:99])
  with pytest.raises(UserError, match="critic_steps is 0"):
    estimator(x, x, critic_steps=0)


@pytest.mark.long
@pytest.mark.parametrize("estimator", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize(
  ("rho", "samples"),
  [
    (0.0, 3000),
    (0.75, 1500),
    pytest.param(0.75, 6000, marks=pytest.mark.long),
    pytest.param(0.95, 3000, marks=pytest.mark.long),
  ],
)
def test_bivariate_normal(estimator, rho, samples):
  x, y = tasks.normal("", tasks.paired(1, rho)).draw(np.random.default_rng(8), samples)
  found = estimator(x, y, critic_steps=2000).mi
  truth = closed_forms.bivariate_normal(rho)
  # A lower bound: the critic is not perfect (0.1 nats at a correlation of 0.95), and it is a mean
  # over a fifth of the samples, whose log ratio has a standard deviation of about rho.
  error = 4 * max(rho, 0.1) / np.sqrt(samples / 5)
  assert truth - 0.1 - error < found < truth + error
