"""Tests the geometry of classes against direct sums, closed forms and normal data."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import covariance

from miue_jax.information import theory
from miue_jax.settings.errors import UserError


def classes(samples=300, d=4, spread=1.0, seed=0):
  rng = np.random.default_rng(seed)
  labels = np.repeat([0, 1, 5], samples)
  means = np.repeat(3 * rng.standard_normal((3, d)), samples, axis=0)
  return means + spread * rng.standard_normal((3 * samples, d)), labels


def test_cosines_are_means_over_all_pairs():
  features, labels = classes(samples=9, d=3)
  features[4] = 0
  found = theory.bound(features, labels)
  norms = np.linalg.norm(features, axis=1, keepdims=True)
  units = np.where(norms > 0, features / np.where(norms > 0, norms, 1), 0)
  cosines = units @ units.T
  for one in found.classes:
    inside = labels == one.label
    same = cosines[np.ix_(inside, inside)]
    assert one.intra_cosine == pytest.approx(same[~np.eye(9, dtype=bool)].mean())
    assert one.inter_cosine == pytest.approx(cosines[np.ix_(inside, ~inside)].mean())
  assert found.intra_cosine == pytest.approx(np.mean([c.intra_cosine for c in found.classes]))


def test_log_det_and_spectrum_of_a_normal_class():
  rng = np.random.default_rng(1)
  scales = np.array([3.0, 1.0, 0.5, 0.2, 0.1])
  features = rng.standard_normal((20_000, 5)) * scales + 7
  found = theory.bound(features, np.zeros(20_000, int))
  (one,) = found.classes
  # Relative error of each eigenvalue: sqrt(2 / 20,000) = 1 %.
  np.testing.assert_allclose(one.spectrum, scales**2, rtol=0.05)
  assert one.half_log_det == pytest.approx(np.log(scales).sum(), abs=0.05)
  assert found.half_log_det == pytest.approx(one.half_log_det)
  assert found.dimension == pytest.approx(2.5 * np.log(2 * np.pi * np.e))
  # Together they are the entropy of the normal: sum of ln(s sqrt(2 pi e)).
  entropy = np.log(scales * np.sqrt(2 * np.pi * np.e)).sum()
  assert found.dimension + found.half_log_det == pytest.approx(entropy, abs=0.05)
  assert found.inter_cosine is one.inter_cosine is None


def test_shrinkage_is_that_of_scikit_learn():
  features, labels = classes(samples=12, d=30)
  for one in theory.bound(features, labels).classes:
    matrix, shrinkage = covariance.ledoit_wolf(features[labels == one.label])
    assert one.shrinkage == pytest.approx(shrinkage)
    assert one.half_log_det == pytest.approx(np.linalg.slogdet(matrix)[1] / 2)
    assert np.count_nonzero(np.array(one.spectrum) > 1e-9) == 11


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_effective_rank_of_equal_eigenvalues_is_their_number(rank):
  rng = np.random.default_rng(2)
  basis, _ = np.linalg.qr(rng.standard_normal((200, rank)) - 0)
  basis -= basis.mean(axis=0)
  basis, _ = np.linalg.qr(basis)
  features = np.hstack([basis, np.zeros((200, 8 - rank))])
  found = theory.bound(features, np.zeros(200, int))
  assert found.effective_rank == pytest.approx(rank, rel=1e-6)


def test_shrinking_a_class_lowers_the_bound_by_d_ln_s():
  features, labels = classes(d=4)
  means = np.stack([features[labels == label].mean(0) for label in (0, 1, 5)])
  centres = np.repeat(means, 300, axis=0)
  small = centres + 0.1 * (features - centres)
  before, after = theory.bound(features, labels), theory.bound(small, labels)
  assert before.half_log_det - after.half_log_det == pytest.approx(4 * np.log(10), abs=1e-6)
  assert after.intra_cosine > before.intra_cosine
  assert after.divergence == pytest.approx(before.divergence, abs=1e-4)


@pytest.mark.parametrize("samples", [50, 500, 5000])
def test_a_normal_class_has_no_divergence(samples):
  features = np.random.default_rng(3).standard_normal((samples, 6)) @ np.diag(range(1, 7)) + 2
  found = theory.bound(features, np.zeros(samples, int))
  # The bias of the entropy by spacings is subtracted; slices of one sample share its error,
  # about 0.5 / sqrt(samples).
  assert abs(found.divergence) < 0.02 + 0.5 / np.sqrt(samples)


def test_divergence_in_one_dimension_is_the_known_one():
  features = np.random.default_rng(4).random((20_000, 1))
  found = theory.bound(features, np.zeros(20_000, int))
  # ln sqrt(2 pi e / 12), the entropy that a uniform variable lacks.
  assert found.divergence == pytest.approx(0.5 * np.log(2 * np.pi * np.e / 12), abs=0.02)


def test_classes_are_weighted_by_their_size_and_small_ones_skipped():
  features, labels = classes(samples=100)
  keep = np.r_[0:100, 100:150, 200:205]
  found = theory.bound(features[keep], labels[keep])
  assert [one.samples for one in found.classes] == [100, 50]
  assert found.skipped == (5,)
  mean = (100 * found.classes[0].half_log_det + 50 * found.classes[1].half_log_det) / 150
  assert found.half_log_det == pytest.approx(mean)


def test_collapsed_classes_stay_finite():
  features = np.repeat(np.eye(3), 20, axis=0)
  found = theory.bound(features, np.repeat([0, 1, 2], 20))
  assert np.isfinite(found.half_log_det)
  assert found.effective_rank == found.divergence == 0
  assert found.intra_cosine == pytest.approx(1)
  assert found.inter_cosine == pytest.approx(0)


@pytest.mark.parametrize(
  ("features", "labels", "message"),
  [
    (np.zeros((9, 2)), np.zeros(8, int), "shape"),
    (np.zeros(9), np.zeros(9, int), "shape"),
    (np.full((9, 2), np.nan), np.zeros(9, int), "NaN or infinity"),
    (np.zeros((9, 2)), np.arange(9), "No class has 8"),
  ],
)
def test_unfit_features_are_refused(features, labels, message):
  with pytest.raises(UserError, match=message):
    theory.bound(features, labels)


def test_the_covariance_term_alone_is_that_of_the_bound():
  features, labels = classes(samples=40, d=6, spread=0.3)
  features, labels = features[:-35], labels[:-35]  # 40, 40 and 5 examples: the last are too few
  expected = theory.bound(features, labels)
  assert expected.skipped == (5,)
  assert theory.covariance_term(features, labels) == expected.half_log_det
  with pytest.raises(UserError, match="No class has 8 examples"):
    theory.covariance_term(features[-5:], labels[-5:])


@pytest.mark.parametrize("kind", [jnp.asarray, np.ndarray.tolist])
def test_arrays_of_jax_and_lists_give_the_same_numbers(kind):
  features, labels = classes(samples=40, d=6, spread=0.3)
  features = np.float32(features)
  assert theory.bound(kind(features), kind(labels)) == theory.bound(features, labels)
  assert theory.covariance_term(kind(features), kind(labels)) == (
    theory.covariance_term(features, labels)
  )


@pytest.mark.parametrize("option", [{"seed": -1}, {"directions": 0}])
def test_unfit_options_are_refused(option):
  with pytest.raises(UserError, match="use at least"):
    theory.bound(*classes(samples=40, d=6, spread=0.3), **option)
