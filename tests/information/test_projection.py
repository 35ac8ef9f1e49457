"""Tests that random directions are uniform unit vectors and that every one is used."""

import numpy as np

from miue_jax.information import projection


def test_directions_are_unit_vectors():
  directions = projection.draw(5, 40, seed=0)
  assert directions.shape == (5, 40)
  np.testing.assert_allclose(np.linalg.norm(directions, axis=0), 1, atol=1e-6)


def test_directions_are_uniform_on_the_sphere():
  directions = projection.draw(4, 20_000, seed=1)
  # Each coordinate has mean 0, variance 1/d and fourth moment 3 / (d (d + 2)).
  np.testing.assert_allclose(directions.mean(axis=1), 0, atol=0.02)
  np.testing.assert_allclose(directions @ directions.T / 20_000, np.eye(4) / 4, atol=0.02)
  np.testing.assert_allclose((directions**4).mean(axis=1), 3 / 24, atol=0.01)


def test_every_block_is_projected(monkeypatch):
  monkeypatch.setattr(projection, "BLOCK", 3)
  rng = np.random.default_rng(2)
  x, y = rng.standard_normal((30, 4)), rng.standard_normal((30, 6))
  a, b = projection.draw(4, 8, seed=3), projection.draw(6, 8, seed=4)

  def value(x_block, y_block):
    return np.asarray((x_block * y_block).sum(axis=0))

  x, y = x - x.mean(0), y - y.mean(0)
  expected = np.einsum("nd,dc,ne,ec->c", x, a, y, b) / (abs(x).max() * abs(y).max())
  np.testing.assert_allclose(projection.over(value, x, y, a, b), expected, rtol=1e-4, atol=1e-6)


def test_a_far_offset_costs_no_precision():
  x = np.random.default_rng(5).standard_normal((50, 3))
  np.testing.assert_allclose(
    projection.centred(x + 1e9), projection.centred(x), rtol=1e-4, atol=1e-6
  )
  assert not np.asarray(projection.centred(np.ones((9, 2)))).any()
