"""Tests estimators on tasks of known information, with tolerances from their known biases."""

import numpy as np
import pytest

from benchmarks import tasks
from miue_jax.information import ESTIMATORS

BY_NAME = {task.name: task for task in tasks.TASKS}
QUIET = {"bootstrap": 0, "null": 0}


def error(name, task, samples, **settings):
  x, y = BY_NAME[task].draw(np.random.default_rng(samples), samples)
  return ESTIMATORS[name](x, y, **settings, **QUIET).mi - BY_NAME[task].truth


# Scalar tasks without tails: the bias of k-NN is below 0.02, plus the mass that the edges of a
# bounded density cut off, about 1 / sqrt(samples); its standard deviation is about the same.
@pytest.mark.parametrize("samples", [1000, 4000])
@pytest.mark.parametrize(
  "task",
  [
    "independent 1 x 1",
    "normal 1 x 1, rho 0.5",
    "normal 1 x 1, rho 0.75",
    "normal 1 x 1, rho 0.95",
    "additive uniform 0.1",
    "additive uniform 0.75",
    "uniform margins 1 x 1",
    "wiggly 1 x 1",
    "half-cube 1 x 1",
    "bimodal 1 x 1",
    "swiss roll 2 x 1",
    "asinh Student 1 x 1, 1 dof",
  ],
)
def test_neighbours_on_scalar_tasks(task, samples):
  assert abs(error("knn", task, samples)) < 0.02 + 4 / np.sqrt(samples)


# In several dimensions a neighbourhood of k samples has the radius (k / samples)^(1 / d), inside
# which the density is not flat: the bias is negative and falls only slowly with samples.
@pytest.mark.parametrize(
  ("task", "bias"),
  [
    ("dense normal 2 x 2", 0.03),
    ("dense normal 3 x 3", 0.06),
    ("dense normal 5 x 5", 0.15),
    ("2-pair normal 2 x 2", 0.05),
    ("2-pair normal 3 x 3", 0.25),
    ("2-pair normal 5 x 5", 0.5),
    ("Student 2 x 2, 2 dof", 0.15),
    ("Student 3 x 3, 3 dof", 0.35),
    ("spiral 3 x 3", 0.45),
  ],
)
def test_neighbours_in_several_dimensions_err_downwards_and_less_with_more_samples(task, bias):
  few, many = error("knn", task, 500), error("knn", task, 4000)
  noise = 4 / np.sqrt(4000)
  assert -bias - noise < many < noise
  assert abs(many) < abs(few) + 4 / np.sqrt(500)


# The Gaussian estimator is unbiased on normal tasks of any size, with a standard deviation of
# sqrt(sum of squared canonical correlations / samples) and at least that of chance,
# sqrt(dx dy / 2) / samples.
@pytest.mark.parametrize("samples", [500, 4000])
@pytest.mark.parametrize("task", [name for name in BY_NAME if "normal " in name])
def test_gaussian_on_normal_tasks(task, samples):
  x, _ = BY_NAME[task].draw(np.random.default_rng(0), 2)
  features, truth = x.shape[1], BY_NAME[task].truth
  # -ln(1 - r^2) >= r^2, so twice the truth bounds the sum of squared correlations.
  spread = np.sqrt(min(2 * truth, features) / samples) + features / samples
  assert abs(error("gaussian", task, samples)) < 4 * spread


# Sixteen bins over the range of a few thousand normal samples are about half a standard deviation
# wide: rounding to them acts like noise of variance 0.25 / 12 on each side.
@pytest.mark.parametrize("samples", [2000, 20_000])
@pytest.mark.parametrize(
  "task",
  ["independent 1 x 1", "normal 1 x 1, rho 0.5", "normal 1 x 1, rho 0.75", "wiggly 1 x 1"],
)
def test_histogram_on_scalar_tasks(task, samples):
  found = error("histogram", task, samples, correction="miller_madow")
  assert -0.05 - 3 / np.sqrt(samples) < found < 0.02 + 3 / np.sqrt(samples)
