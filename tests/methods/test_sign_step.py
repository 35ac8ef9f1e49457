"""Tests one sign step: adversary, views, and what it counts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import uneven_dataset

from miue_jax import budget
from miue_jax.machine import prng, sharding
from miue_jax.methods import AlternatingSettings, sign_step
from miue_jax.methods import delta as deltas
from miue_jax.train import lanes, step

COUNT, CLASSES = 22, 3


class Pixels(nn.Module):
  """A network whose features and logits are pixels."""

  @nn.compact
  def __call__(self, images, train=False):
    pixels = images.reshape(len(images), -1)
    return pixels, pixels[:, :CLASSES]


@pytest.fixture
def moved(use_devices):
  """Returns `moved(dataset, objective, ...)`: delta in 255ths and sums after one sign step."""

  def run(dataset, objective, adversary=None, index=0, **changes):
    use_devices(2)
    settings = AlternatingSettings(**({"batch_size": 8, "augment": "none"} | changes))
    layout = lanes.lay_out(len(dataset.train), (8,), 0)
    table, key = layout.place(dataset.train), prng.stream(0)
    data = step.Pass(table, None, step.shuffler(8)(key, table.ids), key)
    state = sharding.replicate(step.Frozen({}, {}, (), {}))
    size = sharding.replicate(np.float32(3 / 255))
    rows = sharding.shard(layout.ids >= 0)
    constants = deltas.DeltaPass(state, data, rows, rows, size)
    start = deltas.first_delta(dataset, settings, layout, 0)
    delta, sums, _ = jax.jit(sign_step.delta_step(Pixels(), settings, objective, adversary))(
      (start, step.Sums.zero(), None), constants, jnp.int32(index)
    )
    stored = layout.fetch(delta.stored, np.asarray, delta.stored.shape[1:])
    found = budget.unpack(stored, delta.parts).reshape(-1, *delta.image)
    return 255 * found, sharding.fetch(sums)

  return run


def energy(features, logits, labels, weights, settings):
  del logits, labels, weights, settings
  return jnp.sum(features**2, axis=1)


@pytest.mark.parametrize("microbatch", [0, 4])
def test_the_change_of_the_adversary_is_a_constant_of_the_gradient(moved, microbatch):
  dataset = uneven_dataset(8)
  # The adversary's images fall as the image rises: their derivative would turn every sign.
  delta, sums = moved(dataset, energy, lambda keys, x, loss: 1.1 - 3 * x, microbatch=microbatch)
  levels = dataset.train.images[:].astype(float)
  seen = 1.1 - 3 * levels / 255
  expected = (levels - 3 * np.sign(seen)).clip(0, 255) - levels
  np.testing.assert_allclose(delta, expected, atol=1e-3)
  np.testing.assert_allclose(sums.loss, np.mean(np.sum(seen**2, axis=(1, 2, 3))), rtol=1e-5)


def test_the_adversary_is_given_the_loss_and_a_key_of_every_row(moved):
  dataset = uneven_dataset(8)
  seen = []

  def adversary(keys, images, loss):
    jax.debug.callback(lambda *x: seen.append(x), jax.random.key_data(keys), images, loss(images))
    return images

  moved(dataset, energy, adversary, index=0, steps=2, augment_poisoned=True, draws=2)
  jax.effects_barrier()
  keys, images, losses = (np.concatenate(x) for x in zip(*seen, strict=True))
  assert len(np.unique(keys, axis=0)) == len(keys) == 16  # two draws
  exact = images.astype(np.float64)
  logits = exact.reshape(16, -1)[:, :CLASSES]
  apart = np.abs(dataset.train.images[:] / 255 - exact[:, None]).max(axis=(2, 3, 4))
  labels = dataset.train.labels[np.argmin(apart, axis=1)]
  expected = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(16), labels]
  np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.slow
def test_only_the_last_step_of_a_batch_counts_correct_predictions(moved):
  dataset = uneven_dataset(COUNT)
  first_pixels = dataset.train.images[:].reshape(COUNT, -1)[:, :CLASSES]
  right = np.argmax(first_pixels, axis=1) == dataset.train.labels
  correct = count = 0
  for batch in range(3):
    for number in range(2):
      index = 2 * batch + number
      _, sums = moved(dataset, energy, index=index, steps=2, stop_error=1.0)
      assert sums.count == 0 or number == 1
      correct, count = correct + sums.correct, count + sums.count
  assert count == COUNT  # padding left out
  assert correct == right.sum()
  _, sums = moved(dataset, energy, index=1, steps=2)
  assert sums.count == 0  # without stop_error nothing is counted


def test_an_objective_without_one_loss_per_row_is_refused(moved):
  def mean(features, *_):
    return jnp.mean(features)

  with pytest.raises(AssertionError, match="shapes"):
    moved(uneven_dataset(8), mean)
