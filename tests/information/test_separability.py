"""Tests linear separability, distances of class means, and how fast a loss falls."""

import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.information import separability
from miue_jax.settings.errors import UserError

RNG = np.random.default_rng(0)


def test_class_wise_perturbations_are_separable_and_noise_is_not():
  rng = np.random.default_rng(0)
  labels = np.arange(400) % 4
  patterns = rng.integers(-8, 9, (4, 4, 4, 3))
  found = separability.linear_separability(patterns[labels].astype(np.int8), labels)
  assert (found.train_accuracy, found.test_accuracy) == (100, 100)
  noise = rng.integers(-8, 9, (400, 4, 4, 3)).astype(np.int8)
  random = separability.linear_separability(noise, labels)
  # 300 examples of 48 inputs can be partly memorised; on 100 others chance is 25 +- 4.3 %.
  assert random.test_accuracy < 25 + 4 * 4.4
  assert random.train_accuracy > random.test_accuracy
  assert (random.train_samples, random.test_samples, random.chance) == (300, 100, 25)
  assert found.converged


def test_an_unfinished_fit_says_so():
  rng = np.random.default_rng(1)
  inputs, labels = rng.standard_normal((100, 20)), np.arange(100) % 2
  assert not separability.linear_separability(inputs, labels, max_iterations=1).converged


def test_linear_separability_is_linear():
  rng = np.random.default_rng(2)
  inputs = rng.standard_normal((800, 2))
  exclusive_or = (inputs[:, 0] * inputs[:, 1] > 0).astype(int)
  assert separability.linear_separability(inputs, exclusive_or).train_accuracy < 65
  assert separability.linear_separability(inputs, (inputs[:, 0] > 0) * 1).train_accuracy > 95


def test_distance_of_class_means():
  rng = np.random.default_rng(3)
  labels = np.repeat([0, 1, 2], 4000)
  means = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 10.0]])
  inputs = means[labels] + rng.standard_normal((12_000, 2))
  expected = (5 + 10 + np.hypot(3, 6)) / 3
  # The root mean square distance of a standard normal in the plane from its mean is sqrt(2).
  found = separability.class_distance(inputs, labels)
  assert found == pytest.approx(expected / np.sqrt(2), rel=0.02)
  assert separability.class_distance(means[labels], labels) == np.inf


def test_epochs_to_share():
  assert separability.epochs_to_share([2.0, 1.5, 0.5]) == pytest.approx(2.5)
  assert separability.epochs_to_share([2.0, 1.0]) == pytest.approx(2.0)
  assert separability.epochs_to_share([2.0, 1.9]) is None
  assert separability.epochs_to_share([0.0, 0.0]) == 1
  assert separability.epochs_to_share([2.0, 0.1], share=0.9) < 2


@pytest.mark.parametrize(
  ("inputs", "labels", "message"),
  [
    (np.zeros((9, 2)), np.zeros(8, int), "shape"),
    (np.zeros((9, 2)), np.zeros(9, int), "two classes"),
    (np.full((8, 2), np.nan), np.arange(8) % 2, "NaN"),
    (np.zeros((9, 2)), np.arange(9) // 6, "at least 4"),
  ],
)
def test_unfit_inputs_are_refused(inputs, labels, message):
  with pytest.raises(UserError, match=message):
    separability.linear_separability(inputs, labels)


@pytest.mark.parametrize("loss", [[], [1.0, np.nan, 0.2]])
def test_a_loss_without_numbers_is_refused(loss):
  with pytest.raises(UserError, match="at least one epoch"):
    separability.epochs_to_share(loss)


@pytest.mark.parametrize("kind", [jnp.asarray, np.ndarray.tolist])
def test_arrays_of_jax_and_lists_give_the_same_numbers(kind):
  labels = np.arange(40) % 2
  inputs = np.float32(RNG.standard_normal((40, 3)) + labels[:, None])
  for measure in (separability.linear_separability, separability.class_distance):
    assert measure(kind(inputs), kind(labels)) == measure(inputs, labels)
