"""Tests the optimiser against PyTorch, the training step on both kinds of loops, and the sums."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import Tiny

from miue_jax.data.dataset import Split
from miue_jax.machine import cpu, loops, prng, sharding
from miue_jax.settings.config import Fit, Model, Sgd
from miue_jax.settings.errors import UserError
from miue_jax.train import lanes, step

CLASSES, STEPS = 3, 5  # full batches of 8 in 42 images
CONFIG = Fit(epochs=3, batch_size=8, augment="crop_flip", weight_decay=1e-2)
TINY = Tiny(Model(), CLASSES)


def learning_rates(config, epochs, steps):
  """Returns the learning rate of every step, read off updates of gradient 1."""
  optimiser = step.sgd(config, epochs, steps)

  def advance(state, _):
    update, state = optimiser.update(jnp.float32(1), state, jnp.float32(0))
    return state, -update

  return jax.lax.scan(advance, optimiser.init(jnp.float32(0)), length=epochs * steps)[1]


def test_learning_rate_is_the_published_table():
  rates = learning_rates(Sgd(momentum=0.0), 100, 3).reshape(100, 3)
  assert (rates == rates[:, :1]).all()
  for epoch, rate in [(1, 0.1), (25, 0.08645), (50, 0.05157), (75, 0.01577), (100, 2.567e-5)]:
    # The last rate is a difference of numbers near 1: float32 leaves three digits of it.
    assert float(rates[epoch - 1, 0]) == pytest.approx(rate, rel=5e-3 if epoch == 100 else 5e-4)


def test_the_learning_rate_of_adversarial_training_drops_at_40_and_80_percent():
  rates = learning_rates(Sgd(momentum=0.0, schedule="steps"), 100, 3).reshape(100, 3)
  np.testing.assert_allclose(rates[:40], 0.1)
  np.testing.assert_allclose(rates[40:80], 0.01, rtol=1e-6)
  np.testing.assert_allclose(rates[80:], 0.001, rtol=1e-6)


def test_one_cycle_rises_for_30_percent_of_the_steps_and_then_falls():
  rates = learning_rates(Sgd(momentum=0.0, learning_rate=0.2, schedule="onecycle"), 10, 10)
  np.testing.assert_allclose(rates[0], 0.2 / 25, rtol=1e-5)
  np.testing.assert_allclose(rates[30], 0.2, rtol=1e-5)
  np.testing.assert_allclose(rates[65], 0.1, rtol=1e-3)  # half way down a cosine
  assert (jnp.diff(rates[:31]) > 0).all()
  assert (jnp.diff(rates[30:]) < 0).all()


@pytest.mark.parametrize("schedule", ["cosine", "steps"])
def test_optimiser_is_pytorchs(schedule):
  torch = pytest.importorskip("torch")
  config = Sgd(
    learning_rate=0.3,
    final_learning_rate=0.01,
    momentum=0.9,
    weight_decay=0.05,
    schedule=schedule,
  )
  epochs, steps = 5, 3
  rng = np.random.default_rng(0)
  start, *gradients = rng.standard_normal((1 + epochs * steps, 5)).astype(np.float32)

  weight = torch.nn.Parameter(torch.tensor(start))
  theirs = torch.optim.SGD([weight], lr=0.3, momentum=0.9, weight_decay=0.05)
  scheduler = {
    "cosine": torch.optim.lr_scheduler.CosineAnnealingLR(theirs, epochs, eta_min=0.01),
    "steps": torch.optim.lr_scheduler.MultiStepLR(theirs, [2, 4]),
  }[schedule]
  optimiser = step.sgd(config, epochs, steps)
  params, state = jnp.array(start), optimiser.init(jnp.array(start))
  update = jax.jit(optimiser.update)
  for number, gradient in enumerate(gradients, 1):
    weight.grad = torch.tensor(gradient)
    theirs.step()
    if number % steps == 0:
      scheduler.step()
    updates, state = update(jnp.array(gradient), state, params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, weight.detach(), rtol=1e-5, atol=1e-6)


def make_split(count):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (count, 6, 6, 1), np.uint8)
  return Split(images, rng.integers(0, CLASSES, count, np.int32))


def one_pass(platform):
  """Returns state and sums after one pass with the loops of `platform`; the devices stay CPUs."""
  optimiser = step.sgd(CONFIG, CONFIG.epochs, STEPS)
  train = make_split(42)
  state = sharding.replicate(
    step.fresh_state(TINY, optimiser, jax.random.key(0), train.images.shape[1:])
  )
  table = lanes.lay_out(42, (8,), 0).place(train)
  key = prng.stream(0, "fit", 0)
  constants = step.Pass(table, None, step.shuffler(8)(key, table.ids), key)
  inputs = step.plain_inputs("crop_flip")
  train_step = step.train_step(TINY, optimiser, inputs, jax.P("data"))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(cpu, "in_use", lambda: platform == "cpu")
    run = loops.repeated(train_step)
  (state, sums), reached = run((state, step.Sums.zero()), constants, 0, STEPS)
  assert reached == STEPS
  return state, sums


@pytest.mark.slow
def test_both_kinds_of_loops_train_the_same_model(use_devices):
  use_devices(2)
  chex.assert_trees_all_close(one_pass("gpu"), one_pass("cpu"), rtol=1e-5, atol=1e-5)


def test_sums_read_means_and_remember_the_first_bad_step(use_devices):
  use_devices(1)
  sums = step.Sums.zero().add(4, jnp.float32(1.0), 3, 8).add(5, jnp.float32(2.0), 5, 8)
  assert sums.read("x") == (1.5, 50.0)
  bad = sums.add(6, jnp.float32(jnp.inf), 0, 8).add(7, jnp.float32(jnp.nan), 0, 8)
  with pytest.raises(UserError, match="step 6"):
    bad.read("x")
