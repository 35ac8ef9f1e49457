"""Tests TUE: contrast of two views and separability of classes, against NumPy and optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import central_differences, noisy_dataset

from miue_jax.machine.meshes import AXIS
from miue_jax.methods import tue
from miue_jax.settings.config import Model, Sgd
from miue_jax.settings.errors import UserError

COUNT, BATCH = 44, 16
SETTINGS = tue.Settings(
  model=Model(name="tiny"),
  source=Sgd(batch_size=16, augment="flip"),
  epochs=2,
  batch_size=BATCH,
  steps=4,
  step_size_start=1.6 / 255,
  step_size_end=1.6 / 255,
  augment="flip",
  checkpoint_every=100,
)
SOURCE_STEPS = COUNT // 16


DATASET = noisy_dataset(COUNT, channels=3)
LABELS = DATASET.train.labels


@pytest.fixture
def generate(runs):
  """Returns `generate(...)`, which generates a perturbation, by default on two devices."""
  run = runs(DATASET, SETTINGS)
  return lambda *arguments, **changes: run(*arguments, **changes)[0]


def on_mesh(function, *arguments):
  """Runs a function of local rows, which returns a scalar and rows, over the mesh."""
  mapped = jax.shard_map(function, in_specs=jax.P(AXIS), out_specs=(jax.P(), jax.P(AXIS)))
  return jax.jit(mapped)(*map(jnp.asarray, arguments))


@pytest.mark.long
def test_the_contrast_is_ntxent_with_its_gradient(use_devices):
  use_devices(2)
  rng = np.random.default_rng(0)
  first, second = rng.normal(size=(2, 12, 5)).astype(np.float32)
  weights = np.array([1.0] * 10 + [0.0] * 2, np.float32)

  def ours(first, second, weights):
    def mean(first):
      losses, _ = tue.contrast((first, second), weights, 0.5)
      return jax.lax.psum(jnp.sum(weights * losses), AXIS) / 10

    return jax.value_and_grad(mean)(first)

  def theirs(first):
    pairs = jnp.concatenate([first, second[:10]])
    return optax.losses.ntxent(pairs, jnp.tile(jnp.arange(10), 2), 0.5)

  value, gradient = on_mesh(ours, first, second, weights)
  expected, slope = jax.value_and_grad(theirs)(first[:10])
  assert value == pytest.approx(float(expected), rel=1e-5)
  np.testing.assert_allclose(gradient[:10], slope, atol=1e-6)
  np.testing.assert_array_equal(gradient[10:], 0)


def csd(delta, labels):
  """Returns the discriminant in float64, computed pair by pair."""
  flat = delta.astype(np.float64).reshape(len(delta), -1)
  members = [flat[labels == label] for label in np.unique(labels)]
  centres = [rows.mean(axis=0) for rows in members]
  spread = [
    np.linalg.norm(rows - centre, axis=1).mean()
    for rows, centre in zip(members, centres, strict=True)
  ]
  pairs = [(i, j) for i in range(len(members)) for j in range(len(members)) if i != j]
  return np.mean(
    [(spread[i] + spread[j]) / np.linalg.norm(centres[i] - centres[j]) for i, j in pairs]
  )


def test_separability_is_the_formula_with_its_gradient(use_devices):
  use_devices(2)
  rng = np.random.default_rng(1)
  delta = rng.normal(size=(12, 2, 2, 1)).astype(np.float32) / 30
  labels = rng.permutation(np.arange(12) % 3)  # one of the four classes has no image
  valid = np.arange(12) < 10

  def ours(delta, labels, valid):
    return jax.value_and_grad(tue.separability)(delta, labels, valid, 4)

  value, gradient = on_mesh(ours, delta, labels, valid)
  assert value == pytest.approx(csd(delta[valid], labels[valid]), rel=1e-5)
  slope = central_differences(lambda delta: csd(delta[valid], labels[valid]), delta)
  np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=1e-4)


def test_equal_perturbations_have_a_gradient(use_devices):
  use_devices(2)

  def slope(delta, labels):
    return jax.value_and_grad(tue.separability)(delta, labels, labels >= 0, 3)

  value, gradient = on_mesh(slope, np.zeros((6, 2, 2, 1), np.float32), np.arange(6) % 3)
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)


@pytest.mark.long
def test_classes_become_separable(generate):
  made = generate(separability_weight=1.0, steps=16)
  without = generate("without", separability_weight=0.0, steps=16)
  assert csd(made.delta, LABELS) < 0.5 * csd(without.delta, LABELS)
  assert np.abs(made.delta).max() == 8


@pytest.mark.long
def test_the_contrast_falls(generate):
  made = generate(separability_weight=0.0, epochs=6)
  for name in ("source_loss", "objective"):
    assert made.history[name][-1] < made.history[name][0] - 0.05


@pytest.mark.long
def test_the_number_of_devices_does_not_matter(generate):
  one, two = (generate(str(n), devices=n, epochs=1) for n in (1, 2))
  np.testing.assert_allclose(two.history["source_loss"], one.history["source_loss"], rtol=1e-4)
  np.testing.assert_allclose(two.history["objective"], one.history["objective"], rtol=1e-3)
  assert np.mean(two.delta == one.delta) >= 0.98


@pytest.mark.parametrize(
  ("changes", "problem"),
  [
    ({"class_wise": True}, "class_wise is True; it must be False for tue"),
    ({"augment_poisoned": False}, "augment_poisoned is False; it must be True for tue"),
  ],
)
def test_images_without_two_views_are_refused(generate, changes, problem):
  with pytest.raises(UserError, match=problem):
    generate(**changes)
