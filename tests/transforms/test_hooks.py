"""Tests soft labels against NumPy in float64 and optax, and the hooks of an epoch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from miue_jax.transforms import hooks


def test_soft_targets_are_mixtures_of_onehot_labels():
  rng = np.random.default_rng(0)
  logits = rng.standard_normal((6, 4)).astype(np.float32)
  labels = rng.integers(0, 4, (6, 2))
  share = rng.random(6)
  weights = np.stack([share, 1 - share], axis=1)
  soft = (weights[..., None] * np.eye(4)[labels]).sum(axis=1)
  targets = hooks.Targets(jnp.array(labels), jnp.array(weights, jnp.float32))
  shifted = logits - np.log(np.exp(logits.astype(float)).sum(axis=1, keepdims=True))
  np.testing.assert_allclose(targets.loss(logits), -(soft * shifted).sum(axis=1), rtol=1e-5)
  np.testing.assert_allclose(
    targets.loss(logits), optax.softmax_cross_entropy(logits, jnp.float32(soft)), rtol=1e-5
  )
  expected = soft[np.arange(6), logits.argmax(axis=1)]
  np.testing.assert_allclose(targets.correct(logits), expected, rtol=1e-6)


def test_hard_targets_are_labels():
  logits = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
  labels = jnp.array([0, 1, 2, 0, 1])
  targets = hooks.Targets.hard(labels)
  expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  np.testing.assert_array_equal(targets.loss(logits), expected)
  np.testing.assert_array_equal(targets.correct(logits), logits.argmax(axis=1) == labels)


def test_hooks_act_in_their_share_of_the_epochs():
  later = hooks.Hooks()
  first = hooks.Hooks(share=0.25, then=later)
  assert [first.at(epoch, 8) is first for epoch in range(8)] == [True] * 2 + [False] * 6
  assert first.at(7, 8) is later
  assert later.at(0, 8) is later


def test_stored_images_are_not_mistaken_for_floats():
  keys = jax.random.split(jax.random.key(0), 2)
  hooks.assert_batch(keys, jnp.zeros((2, 4, 4, 3), jnp.bfloat16))
  with pytest.raises(AssertionError, match="uint8"):
    hooks.assert_batch(keys, jnp.zeros((2, 4, 4, 3), jnp.uint8))
