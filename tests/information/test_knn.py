"""Kraskov's estimators against a direct NumPy version, closed forms and scikit-learn."""

import numpy as np
import pytest
from scipy import special
from sklearn import feature_selection

from benchmarks import closed_forms, tasks
from miue_jax.information import knn
from miue_jax.settings.errors import UserError


def naive(x, y, k, variant):
  """Equations 8 and 9 of the paper from the n x n distances, in float64, without ties."""
  x, y = ((side - side.mean(0)) / side.std(0) for side in (x, y))
  dx, dy = (np.abs(side[:, None] - side[None]).max(-1) for side in (x, y))
  joint = np.maximum(dx, dy)
  np.fill_diagonal(joint, np.inf)
  count = len(x)
  near = np.argsort(joint, axis=1)[:, :k]
  radius = np.take_along_axis(joint, near[:, -1:], axis=1)
  others = ~np.eye(count, dtype=bool)
  if variant == 1:
    inside = [((d < radius) & others).sum(1) + 1 for d in (dx, dy)]
  else:
    reach = [np.take_along_axis(d, near, axis=1).max(1, keepdims=True) for d in (dx, dy)]
    inside = [((d <= r) & others).sum(1) for d, r in zip((dx, dy), reach, strict=True)]
  counts = special.digamma(inside[0]) + special.digamma(inside[1])
  own = special.digamma(k) + special.digamma(count) - (1 / k if variant == 2 else 0)
  return own - counts.mean()


@pytest.mark.parametrize("variant", [1, 2])
@pytest.mark.parametrize(("dx", "dy"), [(1, 1), (2, 1), (3, 3), (5, 4), (12, 9)])
@pytest.mark.parametrize("k", [1, 4])
def test_agrees_with_all_pairs_in_numpy(dx, dy, k, variant):
  rng = np.random.default_rng(dx + dy)
  x = rng.standard_normal((301, dx))
  y = x[:, :1] + rng.standard_normal((301, dy))
  # Jitter of 1e-6 may exchange two points: one of 301 samples counts one more.
  found = knn.point(x, y, k=k, variant=variant).mi
  assert found == pytest.approx(naive(x, y, k, variant), abs=3e-3)


@pytest.mark.parametrize("variant", [1, 2])
def test_tree_and_blocks_count_the_same(variant, monkeypatch):
  rng = np.random.default_rng(1)
  # float32 values, so that both see the same numbers; more samples than one block of pairs.
  x = rng.standard_normal((1100, 2)).astype(np.float32).astype(np.float64)
  y = (x + rng.standard_normal(x.shape)).astype(np.float32).astype(np.float64)
  monkeypatch.setattr(knn, "_COLUMNS", 300)
  for tree, blocks in zip(
    knn._by_tree(x, y, 3, variant), knn._by_blocks(x, y, 3, variant), strict=True
  ):
    # float32 differences of different pairs can be equal where exact ones are not.
    assert (tree == blocks).mean() > 0.99
    assert abs(tree - blocks).max() <= 1


def columns(samples=400):
  """Slices of every kind: smooth, correlated, equal, with long tails, with ties, and a constant."""
  rng = np.random.default_rng(9)
  x = rng.standard_normal((samples, 8))
  y = x * np.arange(8) + rng.standard_normal(x.shape)
  x[:, 1], y[:, 1] = rng.standard_cauchy((2, samples))
  x[:, 2] = rng.integers(0, 3, samples)
  x[:, 3], y[:, 3] = np.maximum(x[:, 3], 0), np.maximum(y[:, 3], 0)
  y[:, 4] = x[:, 4]
  x[:, 5] = 7.0
  x[:, 6], y[:, 6] = rng.integers(0, 2, (2, samples))
  return x, y


def one_by_one(x, y, **settings):
  return [knn.point(a[:, None], b[:, None], **settings).mi for a, b in zip(x.T, y.T, strict=True)]


@pytest.mark.parametrize("variant", [1, 2])
@pytest.mark.parametrize("k", [1, 3, 16, 17])
def test_slices_are_points(k, variant):
  x, y = columns()
  found = knn.slice_values(x, y, k=k, variant=variant, seed=1)
  np.testing.assert_allclose(found, one_by_one(x, y, k=k, variant=variant, seed=1), atol=1e-12)
  assert found[5] == 0


@pytest.mark.parametrize("variant", [1, 2])
@pytest.mark.parametrize("window", [0.01, 0.3, 100])
def test_what_a_walk_does_not_reach_is_found_all_the_same(window, variant, monkeypatch):
  monkeypatch.setattr(knn, "_WINDOW", window)
  x, y = columns(90)
  found = knn.slice_values(x, y, variant=variant)
  np.testing.assert_allclose(found, one_by_one(x, y, variant=variant), atol=1e-12)


def test_few_samples_have_slices():
  x, y = columns(8)
  found = knn.slice_values(x, y, k=7)
  np.testing.assert_allclose(found, one_by_one(x, y, k=7), atol=1e-12)


def test_slices_are_searched_in_blocks_of_one_shape(monkeypatch):
  shapes = []
  by_walks = knn._by_walks

  def watched(x, y, *settings):
    shapes.append(x.shape)
    return by_walks(x, y, *settings)

  monkeypatch.setattr(knn, "_by_walks", watched)
  monkeypatch.setattr(knn, "_VALUES", 3 * 100)
  x = np.random.default_rng(10).standard_normal((100, 8))
  assert knn.slice_values(x, x + 1).shape == (8,)
  assert shapes == [(3, 100)] * 3
  compiled = knn._walk._cache_size()
  assert knn.slice_values(np.tile(x, 5), np.tile(x, 5)).shape == (40,)
  assert knn._walk._cache_size() == compiled


# The bias of KSG 1 for normal variables is below 0.02 at these sizes (figure 4 of its paper); its
# standard deviation is about 1 / sqrt(samples).
@pytest.mark.parametrize("variant", [1, 2])
@pytest.mark.parametrize("samples", [500, 2000, 10_000])
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.75, 0.95])
def test_bivariate_normal(rho, samples, variant):
  x, y = tasks.normal("", tasks.paired(1, rho)).draw(np.random.default_rng(2), samples)
  truth = closed_forms.bivariate_normal(rho)
  found = knn.point(x, y, variant=variant).mi
  assert found == pytest.approx(truth, abs=0.02 + 3 / np.sqrt(samples))


@pytest.mark.parametrize("width", [0.1, 0.5, 0.75])
def test_additive_uniform(width):
  task = tasks.additive(width)
  x, y = task.draw(np.random.default_rng(3), 5000)
  # The density is flat, but has edges, which cost about 1 / sqrt(samples) of the mass.
  assert knn.point(x, y).mi == pytest.approx(task.truth, abs=0.06)


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9])
def test_agrees_with_scikit_learn_in_one_dimension(rho):
  x, y = tasks.normal("", tasks.paired(1, rho)).draw(np.random.default_rng(4), 3000)
  # scikit-learn cuts off negative estimates.
  (theirs,) = feature_selection.mutual_info_regression(x, y[:, 0], n_neighbors=5)
  assert max(knn.point(x, y, k=5).mi, 0) == pytest.approx(theirs, abs=1e-3)


@pytest.mark.parametrize("symbols", [2, 5])
def test_ties_are_broken_and_identical_symbols_have_their_entropy(symbols):
  x = np.repeat(np.arange(symbols), 2000 // symbols)[:, None]
  # Inside a symbol only independent noise is left, so the estimate is the entropy of the symbols.
  for seed in range(3):
    assert knn.point(x, -x, seed=seed).mi == pytest.approx(np.log(symbols), abs=0.06)


def test_a_seed_decides_the_jitter():
  x = np.random.default_rng(0).integers(0, 4, (400, 1))
  values = [knn.point(x, x // 2, seed=seed).mi for seed in (0, 0, 1)]
  assert values[0] == values[1] != values[2]


def test_constant_features_change_nothing():
  rng = np.random.default_rng(5)
  x = rng.standard_normal((500, 1))
  y = x + rng.standard_normal((500, 1))
  padded = knn.point(np.hstack([x, np.full((500, 30), 7.0)]), y)
  assert padded.mi == pytest.approx(knn.point(x, y).mi, abs=1e-9)
  assert padded.details["dropped_x"] == 30
  assert "Dropped 30 constant features of x" in padded.warnings[0]
  assert knn.point(np.ones((50, 2)), y[:50]).mi == 0


def test_many_dimensions_fail_as_they_are_known_to_and_say_so():
  task = tasks.normal("", tasks.paired(16, 0.5, 16))
  x, y = task.draw(np.random.default_rng(6), 2000)
  found = knn.point(x, y)
  assert task.truth == pytest.approx(2.30, abs=0.01)
  assert found.mi < 1.0
  assert "from about 10 on" in found.warnings[0]
  assert not knn.point(x[:, :2], y[:, :2]).warnings


def test_a_saturated_estimate_says_what_the_samples_can_show():
  x = np.random.default_rng(7).standard_normal((1000, 1))
  found = knn.point(x, x)
  assert "cannot show more than" in found.warnings[-1]


def test_memory_is_bounded_by_blocks(monkeypatch):
  shapes = []
  distances = knn._distances

  def watched(rows, columns):
    shapes.append((len(rows), len(columns)))
    return distances(rows, columns)

  monkeypatch.setattr(knn, "_distances", watched)
  x = np.random.default_rng(8).standard_normal((9001, 4))
  knn.point(x, x + 1)
  assert shapes
  assert max(a * b for a, b in shapes) <= knn._ROWS * knn._COLUMNS < 9001**2 / 50


@pytest.mark.parametrize(
  ("settings", "message"),
  [({"k": 0}, "k is 0"), ({"k": 20}, "k is 20"), ({"variant": 3}, "variant")],
)
def test_unfit_settings_are_refused(settings, message):
  x = np.random.default_rng(0).random((20, 1))
  with pytest.raises(UserError, match=message):
    knn.point(x, x, **settings)
