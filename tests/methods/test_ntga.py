"""Tests NTGA: kernel against a wide random network, predictor in float64, the loss it raises."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from tiny import SEED

from miue_jax.data.dataset import Dataset, Split
from miue_jax.machine import prng, signals
from miue_jax.methods import ntga
from miue_jax.settings.errors import UserError
from miue_jax.train import lanes

pytestmark = pytest.mark.usefixtures("quick_compiler")

COUNT, CLASSES, BATCH = 44, 3, 16  # three blocks, the last one partial
BLOCKS = -(-COUNT // BATCH)
SETTINGS = ntga.Settings(batch_size=BATCH, steps=4, step_size=2 / 255, checkpoint_every=1)


def make_dataset():
  rng = np.random.default_rng(0)
  labels = rng.permutation(np.arange(COUNT, dtype=np.int32) % CLASSES)
  centres = 128 + 12 * rng.choice([-1, 1], (CLASSES, 8, 8, 1))
  images = (centres[labels] + rng.normal(0, 30, (COUNT, 8, 8, 1))).clip(0, 255).astype(np.uint8)
  return Dataset("tiny", Split(images, labels), None, ("a", "b", "c"))


DATASET = make_dataset()


@pytest.fixture
def generate(runs):
  """Returns `generate(...)`, which generates a perturbation, by default on two devices."""
  run = runs(DATASET, SETTINGS)
  return lambda *arguments, **changes: run(*arguments, **changes)[0]


def test_the_kernel_is_that_of_a_wide_random_network():
  rng = np.random.default_rng(0)
  x = rng.uniform(0, 1, (3, 10))
  width, networks, total = 400, 60, 0.0
  for _ in range(networks):
    sizes = [10, *[width] * ntga.DEPTH, 1]
    shapes = itertools.pairwise(sizes)
    layers = [(rng.normal(size=shape), rng.normal(size=shape[1])) for shape in shapes]
    values, inputs, slopes = x, [], []
    for weight, bias in layers:
      inputs.append(values)
      values = np.sqrt(2 / len(weight)) * values @ weight + np.sqrt(ntga._BIAS) * bias
      slopes.append(values > 0)
      values = np.maximum(values, 0)
    # Backpropagation: the gradient of the output with respect to every layer's outputs.
    back, found = np.ones((3, 1)), 0.0
    for index in reversed(range(len(layers))):
      weight = layers[index][0]
      found += (back @ back.T) * (2 / len(weight) * inputs[index] @ inputs[index].T + ntga._BIAS)
      if index:
        back = np.sqrt(2 / len(weight)) * back @ weight.T * slopes[index - 1]
    total += found / networks
  kernel = ntga.kernel(jnp.asarray(x, jnp.float32), jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(kernel, total, rtol=0.06)


def spd(rank):
  rng = np.random.default_rng(rank)
  factor = rng.normal(size=(6, rank))
  return factor @ factor.T


@pytest.mark.parametrize("rank", [3, 6])
def test_learned_is_the_matrix_function_with_its_gradient(rank):
  # Rank 3 has a threefold eigenvalue, at which an eigendecomposition has no gradient.
  gram, time = spd(rank), 0.3
  weights = np.random.default_rng(0).normal(size=(6, 6))

  def exact(matrix):
    # The upper right block of this exponential is the integral of exp(-K s), s from 0 to t.
    block = np.block([[-matrix, np.eye(6)], [np.zeros((6, 6)), np.zeros((6, 6))]])
    return scipy.linalg.expm(time * block)[:6, 6:]

  value, slope = jax.value_and_grad(lambda k: jnp.sum(weights * ntga.learned(k, time)))(
    jnp.asarray(gram, jnp.float32)
  )
  assert value == pytest.approx(np.sum(weights * exact(gram)), rel=1e-4)
  for seed in range(4):
    direction = np.random.default_rng(seed).normal(size=(6, 6))
    direction += direction.T
    step = 1e-5 * direction
    expected = np.sum(weights * (exact(gram + step) - exact(gram - step))) / 2e-5
    assert np.sum(slope * direction) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def prediction_error(block, labels, unseen, answers):
  """Returns the mean squared error on unseen images, in float64 except for the kernel."""

  def kernel(x, y):
    flat = [jnp.asarray(z.reshape(len(z), -1) / 255, jnp.float32) for z in (x, y)]
    return np.asarray(ntga.kernel(*flat), np.float64)

  targets = [np.eye(CLASSES)[z] - 1 / CLASSES for z in (labels, answers)]
  gram = kernel(block, block)
  grown = np.eye(len(gram)) - scipy.linalg.expm(-ntga.TIME / targets[0].size * gram)
  predicted = kernel(unseen, block) @ np.linalg.solve(gram, grown @ targets[0])
  return np.mean((predicted - targets[1]) ** 2)


@pytest.mark.long
def test_unseen_images_are_predicted_worse(generate):
  made = generate()
  rising = [generate(str(n), steps=n).history["objective"] for n in (1, 8)]
  # The mean over more steps, of which the first is the same, is lower for every block.
  assert all(later < first for first, later in zip(*rising, strict=True))
  images, labels = DATASET.train.images, DATASET.train.labels
  layout = lanes.lay_out(COUNT, (BATCH,), SEED)
  key = prng.stream(SEED, "delta")
  order = layout.ids[np.asarray(lanes.shuffle(key, jnp.asarray(layout.ids), BATCH)).T]
  blocks = [ids[ids >= 0] for ids in order[:BLOCKS]]
  assert [len(ids) for ids in blocks][:2] == [BATCH, BATCH]
  for number, ids in enumerate(blocks):
    other = blocks[(number + 1) % BLOCKS]
    judge = images[other], labels[other]
    clean = prediction_error(images[ids], labels[ids], *judge)
    assert -rising[0][number] == pytest.approx(clean, rel=1e-3)
    assert prediction_error(images[ids] + made.delta[ids], labels[ids], *judge) > 1.02 * clean


@pytest.mark.long
@pytest.mark.parametrize("changes", [{"epsilon": 2 / 255}, {"fraction": 0.5}])
def test_the_budget_and_the_choice_of_images_are_kept(generate, changes):
  made = generate(**changes)
  assert np.abs(made.delta).max() == round(255 * changes.get("epsilon", 8 / 255))
  changed = np.flatnonzero(made.delta.any(axis=(1, 2, 3)))
  chosen = np.arange(COUNT) if made.perturbed is None else made.perturbed
  np.testing.assert_array_equal(changed, chosen)


@pytest.mark.long
def test_an_interrupted_run_ends_in_the_same_bytes(generate):
  expected = generate("whole")
  for step in (1, 4, 6):
    with pytest.raises(signals.Interrupted, match="SIGTERM"):
      generate("parts", stop_at=step)
  resumed = generate("parts")
  assert resumed.delta.tobytes() == expected.delta.tobytes()
  assert resumed.history == expected.history


@pytest.mark.long
def test_the_number_of_devices_does_not_matter(generate):
  one, four = (generate(str(n), devices=n) for n in (1, 4))
  np.testing.assert_allclose(four.history["objective"], one.history["objective"], rtol=1e-4)
  assert np.mean(four.delta == one.delta) >= 0.99


@pytest.mark.parametrize(
  ("changes", "problem"),
  [
    ({"class_wise": True}, "Unknown setting class_wise"),
    ({"augment": "flip"}, "Unknown setting augment"),
    ({"batch_size": 64}, "less than the 44 training images"),
  ],
)
def test_settings_that_it_cannot_keep_are_refused(generate, changes, problem):
  with pytest.raises(UserError, match=problem):
    generate(**changes)
