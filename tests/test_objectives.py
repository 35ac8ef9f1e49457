"""Tests losses and their gradients against NumPy in float64 and against closed forms."""

import doctest
import functools

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st
from tiny import central_differences

from miue_jax import objectives

TAU = 0.1
ROWS, FEATURES = 10, 5


def l_sim(z, labels, weights=None, tau=TAU):
  """Computes L_sim of every row by the formula of the paper, float64, with weights in both sums."""
  weights = np.ones(len(z)) if weights is None else weights
  length = np.maximum(np.linalg.norm(z, axis=1, keepdims=True), objectives.MIN_NORM)
  terms = weights * np.exp((z / length) @ (z / length).T / tau)
  same = labels[:, None] == labels
  return -np.log((same * terms).sum(axis=1) / terms.sum(axis=1))


def l_dist(z, labels, weights=None):
  """Computes L_dist of every row by the formula of the paper, float64: 1/d is in the logarithm."""
  weights = np.ones(len(z)) if weights is None else weights
  lengths = np.linalg.norm(z[:, None] - z, axis=2)
  same = labels[:, None] == labels
  return np.log(1 + (same * weights * lengths).sum(axis=1) / z.shape[1])


def l_mi(z, labels, zeta, weights=None):
  """Computes L_mi, the mean over rows."""
  return np.mean(l_sim(z, labels, weights) + zeta * l_dist(z, labels, weights))


@functools.partial(jax.jit, static_argnames="zeta")
def ours(z, labels, valid, zeta):
  """Returns the mean of the loss over valid rows and its gradient, on one device."""

  def mean(z):
    weights = valid.astype(jnp.float32)
    rowwise = objectives.mi_reduction(z, labels, z, labels, weights, tau=TAU, zeta=zeta)
    return jnp.sum(weights * rowwise) / jnp.sum(weights)

  return jax.value_and_grad(mean)(z)


def assert_agrees(z, labels, zeta, valid=None):
  """Asserts that the loss is the formula on the valid rows, and that padding has no gradient."""
  valid = np.ones(len(z), bool) if valid is None else valid
  value, gradient = ours(z.astype(np.float32), labels, valid, zeta)
  z = z.astype(np.float32).astype(np.float64)[valid]
  formula = functools.partial(l_mi, labels=labels[valid], zeta=zeta)
  expected = central_differences(formula, z)
  # Distances from float32 inner products are accurate to sqrt(1e-7) |z|, exponents to 1e-7 / tau.
  # The gradient can also cancel to zero, hence the absolute term.
  np.testing.assert_allclose(value, formula(z), rtol=1e-3, atol=1e-5)
  scale = max(np.abs(expected).max(), 1e-2)
  np.testing.assert_allclose(gradient[valid], expected, rtol=0, atol=2e-3 * scale)
  assert not gradient[~valid].any()


labels_and_masks = st.tuples(
  st.lists(st.integers(0, 4), min_size=ROWS, max_size=ROWS).map(np.array),
  st.lists(st.booleans(), min_size=ROWS, max_size=ROWS).map(np.array).filter(np.any),
  st.integers(0, 2**31),
)


@pytest.mark.parametrize("zeta", [0.0, 0.1, 2.0])
@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(batch=labels_and_masks)
def test_loss_and_gradient_follow_the_paper(zeta, batch):
  # The labels include classes of one example, a single class, and padding of every class.
  labels, valid, seed = batch
  z = np.random.default_rng(seed).standard_normal((ROWS, FEATURES))
  assert_agrees(z, labels, zeta, valid)


@pytest.mark.parametrize("zeta", [0.0, 0.1])
def test_equal_features_have_the_subgradient_of_the_formula(zeta):
  z = np.random.default_rng(0).standard_normal((ROWS, FEATURES))
  z[3] = z[4] = z[5]
  assert_agrees(z, np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 3]), zeta)


@pytest.mark.parametrize("zeta", [0.0, 0.1])
def test_zero_features_are_finite_and_other_gradients_stay_correct(zeta):
  z = np.random.default_rng(1).standard_normal((ROWS, FEATURES)).astype(np.float32)
  z[:2] = 0
  labels = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1])
  value, gradient = ours(z, labels, np.ones(ROWS, bool), zeta)
  formula = functools.partial(l_mi, labels=labels, zeta=zeta)
  np.testing.assert_allclose(value, formula(z.astype(float)), rtol=1e-3)
  assert np.isfinite(gradient).all()
  expected = central_differences(formula, z.astype(float))[2:]
  np.testing.assert_allclose(gradient[2:], expected, rtol=0, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("zeta", [0.0, 0.1])
def test_a_batch_of_zero_features_is_finite(zeta):
  labels = np.arange(ROWS) % 3
  value, gradient = ours(np.zeros((ROWS, FEATURES), np.float32), labels, np.ones(ROWS, bool), zeta)
  # Every cosine is 0, so only the share of the class remains.
  np.testing.assert_allclose(value, -np.log(np.array([4, 3, 3])[labels] / ROWS).mean(), rtol=1e-6)
  assert np.isfinite(gradient).all()


def test_a_batch_of_padding_is_finite():
  z = np.random.default_rng(2).standard_normal((ROWS, FEATURES)).astype(np.float32)
  labels, weights = jnp.arange(ROWS) % 3, jnp.zeros(ROWS)

  def total(z):
    return objectives.mi_reduction(z, labels, z, labels, weights, tau=TAU, zeta=0.1).sum()

  value, gradient = jax.jit(jax.value_and_grad(total))(z)
  assert value == 0
  assert not gradient.any()


def test_collapsed_orthogonal_classes_have_the_closed_form():
  # Cosine 1 inside a class and 0 outside: log(1 + (N - n) / n exp(-1/tau)), no distances.
  classes, members = 4, 5
  labels = np.repeat(np.arange(classes), members)
  z = 3 * np.eye(classes, dtype=np.float32)[labels]
  value, _ = ours(z, labels, np.ones(len(z), bool), 0.1)
  # The value 1e-4 is a difference of two logarithms near 11: float32 is accurate to 1 %.
  np.testing.assert_allclose(value, np.log1p((classes - 1) * np.exp(-1 / TAU)), rtol=1e-2)


def test_two_points_have_the_closed_form_of_the_distance_term():
  z = jnp.array([[0.0, 3.0], [4.0, 0.0], [50.0, 50.0]])
  same = jnp.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
  rowwise = objectives.distance(z, z, same, same, jnp.ones(3))
  np.testing.assert_allclose(rowwise, [np.log(1 + 5 / 2), np.log(1 + 5 / 2), 0], rtol=1e-6)


@pytest.mark.slow
def test_similarity_of_single_member_classes_is_cross_entropy_over_cosines():
  z = jnp.array(np.random.default_rng(3).standard_normal((ROWS, FEATURES), np.float32))
  rowwise = objectives.similarity(z, z, jnp.eye(ROWS, dtype=bool), jnp.ones(ROWS), TAU)
  cosines = optax.losses.cosine_similarity(z[:, None], z[None])
  expected = optax.losses.softmax_cross_entropy_with_integer_labels(cosines / TAU, jnp.arange(ROWS))
  np.testing.assert_allclose(rowwise, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("zeta", "similarity_weight"), [(0.1, 1.0), (0.5, 0.0), (0.0, 2.0)])
def test_rows_may_be_a_shard_of_weighted_columns(zeta, similarity_weight):
  rng = np.random.default_rng(4)
  z, labels = rng.standard_normal((ROWS, FEATURES)), np.arange(ROWS) % 3
  weights = rng.uniform(0.1, 2, ROWS)
  expected = similarity_weight * l_sim(z, labels, weights) + zeta * l_dist(z, labels, weights)
  columns = z.astype(np.float32), labels, weights.astype(np.float32)
  for shard in (slice(0, 4), slice(4, ROWS)):
    rowwise = objectives.mi_reduction(
      columns[0][shard],
      labels[shard],
      *columns,
      tau=TAU,
      zeta=zeta,
      similarity_weight=similarity_weight,
    )
    np.testing.assert_allclose(rowwise, expected[shard], rtol=1e-3, atol=1e-5)


def test_a_term_of_weight_zero_is_not_computed():
  def program(**weights):
    call = functools.partial(objectives.mi_reduction, tau=TAU, **weights)
    arguments = jnp.ones((4, 2)), jnp.zeros(4, int)
    return str(jax.make_jaxpr(call)(*arguments, *arguments, jnp.ones(4)))

  assert "sqrt" in program(zeta=0.1, similarity_weight=0.0).replace("rsqrt", "")
  assert "sqrt" not in program(zeta=0.0).replace("rsqrt", "")
  assert "exp " in program(zeta=0.0)
  assert "exp " not in program(zeta=0.1, similarity_weight=0.0)


def test_a_common_offset_does_not_change_distances():
  # Plain inner products would have errors of |z|^2 1e-7 = 1e-1, as large as the distances.
  rng = np.random.default_rng(5)
  z = (1000 + rng.standard_normal((ROWS, FEATURES))).astype(np.float32)
  labels = np.arange(ROWS) % 2
  same = labels[:, None] == labels
  rowwise = objectives.distance(z, z, same, same, np.ones(ROWS, np.float32))
  np.testing.assert_allclose(rowwise, l_dist(z.astype(float), labels), rtol=1e-3)


def test_examples_of_docstrings_run():
  result = doctest.testmod(objectives)
  assert result.attempted
  assert not result.failed


def test_columns_default_to_the_batch_itself():
  z = jnp.array(np.random.default_rng(7).standard_normal((ROWS, FEATURES)), jnp.float32)
  labels = jnp.arange(ROWS) % 3
  expected = objectives.mi_reduction(z, labels, z, labels, jnp.ones(ROWS), tau=0.1, zeta=0.1)
  found = objectives.mi_reduction(z, labels, tau=0.1, zeta=0.1)
  chex.assert_trees_all_equal(found, expected, objectives.mi_reduction(z, labels))
  np.testing.assert_allclose(
    found.mean(), l_mi(np.asarray(z, float), np.asarray(labels), 0.1), rtol=1e-3
  )


@pytest.mark.parametrize(
  "arguments",
  [
    (np.ones(4), np.zeros(4, int)),
    (np.ones((4, 2)), np.zeros((4, 1), int)),
    (np.ones((4, 2)), np.zeros(3, int)),
    (np.ones((4, 2)), np.zeros(4, int), np.ones((6, 3)), np.zeros(6, int)),
    (np.ones((4, 2)), np.zeros(4, int), np.ones((6, 2)), np.zeros(4, int)),
    (np.ones((4, 2)), np.zeros(4, int), np.ones((6, 2)), np.zeros(6, int), np.ones(4)),
  ],
)
def test_shapes_that_do_not_match_are_an_assertion(arguments):
  with pytest.raises(AssertionError):
    objectives.mi_reduction(
      *(np.asarray(x, np.float32 if x.dtype == float else None) for x in arguments)
    )


@hypothesis.settings(deadline=None)
@hypothesis.given(batch=labels_and_masks)
def test_class_balance_has_its_closed_form(batch):
  labels, valid, _ = batch
  counts = np.bincount(labels[valid], minlength=5)
  expected = valid.sum() / (np.count_nonzero(counts) * np.maximum(counts[labels], 1)) * valid
  weights = objectives.class_balance(jnp.array(labels), jnp.array(valid))
  np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_class_balance_of_padding_alone_is_zero():
  assert not objectives.class_balance(jnp.zeros(4, int), jnp.zeros(4, bool)).any()


def test_cross_entropy_is_the_negative_log_probability():
  logits = np.random.default_rng(6).standard_normal((7, 3))
  labels = np.arange(7) % 3
  probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  expected = -np.log(probabilities[np.arange(7), labels])
  rowwise = objectives.cross_entropy(jnp.array(logits, jnp.float32), jnp.array(labels))
  np.testing.assert_allclose(rowwise, expected, rtol=1e-5)
