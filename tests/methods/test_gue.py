"""Tests GUE: one move of the game in float64, what the players gain, properties of a generator."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import central_differences

from miue_jax.data.dataset import Dataset, Split
from miue_jax.machine import prng, sharding, signals
from miue_jax.methods import gue
from miue_jax.models import unet
from miue_jax.settings.config import Model, Sgd
from miue_jax.settings.errors import UserError
from miue_jax.train import lanes, step

COUNT, CLASSES, BATCH = 44, 3, 16
SETTINGS = gue.Settings(
  model=Model(name="tiny", width=2),
  source=Sgd(batch_size=BATCH, learning_rate=0.05, momentum=0.0, weight_decay=0.0, augment="none"),
  epochs=2,
  batch_size=8,
  response_steps=3,
  generator_learning_rate=0.1,
  checkpoint_every=1,
)
STEPS = COUNT // BATCH


def make_dataset():
  rng = np.random.default_rng(0)
  labels = rng.permutation(np.arange(COUNT, dtype=np.int32) % CLASSES)
  centres = 128 + 5 * rng.choice([-1, 1], (CLASSES, 8, 8, 1))
  images = (centres[labels] + rng.normal(0, 4, (COUNT, 8, 8, 1))).astype(np.uint8)
  images[1], labels[1] = images[0], (labels[0] + 1) % CLASSES  # one image has two labels
  return Dataset("tiny", Split(images, labels), None, ("a", "b", "c"))


DATASET = make_dataset()


@pytest.fixture
def generate(runs):
  """Returns `generate(...)`, which generates a perturbation, by default on two devices."""
  run = runs(DATASET, SETTINGS)
  return lambda *arguments, **changes: run(*arguments, **changes)[0]


class Scaled(nn.Module):
  """A generator with two parameters."""

  @nn.compact
  def __call__(self, images, train=False):
    weights = self.param("weights", jax.nn.initializers.normal(), (2,))
    self.variable("batch_stats", "none", lambda: jnp.zeros(()))
    return jnp.tanh(weights[0] * images + weights[1])


class Linear(nn.Module):
  """A classifier of pixels without a bias."""

  @nn.compact
  def __call__(self, images, train=False):
    pixels = images.reshape(len(images), -1)
    return pixels, nn.Dense(CLASSES, use_bias=False)(pixels)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_one_move_is_the_algorithm_in_float64(use_devices, monkeypatch, devices):
  use_devices(devices)
  monkeypatch.setattr(gue, "RESPONSE_RATE", 0.05)  # q is a difference, in float32
  rng = np.random.default_rng(3)
  pixels = rng.integers(0, 256, (8, 2, 2, 1)).astype(np.uint8)
  labels = rng.integers(0, CLASSES, 8).astype(np.int32)
  mask = np.arange(8) != 2
  epsilon, rate_a, rate_theta = 30 / 255, 0.7, 0.2
  settings = gue.Settings(
    source=Sgd(batch_size=8, augment="none"), epsilon=epsilon, response_steps=2
  )
  theta, own = rng.normal(size=(4, CLASSES)), np.array([0.5, -0.2])
  x = pixels.reshape(8, 4) / 255

  def entropies(theta, images):
    logits = images @ theta
    return np.log(np.exp(logits).sum(axis=1))[:, None] - logits

  def poisoned(own):
    delta = epsilon * np.tanh(own[0] * x + own[1]) * mask[:, None]
    return np.clip(x + delta, 0, 1)

  def follower(theta, own):
    return entropies(theta, poisoned(own))[np.arange(8), labels].mean()

  def leader(theta):
    wrong = entropies(theta, x)
    wrong[np.arange(8), labels] = -np.inf
    return wrong.max(axis=1).mean()

  best, first, second = theta.copy(), 0.0, 0.0
  for number in (1, 2):
    gradient = central_differences(lambda t: follower(t, own), best)
    first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
    corrected = first / (1 - 0.9**number), second / (1 - 0.999**number)
    best = best - gue.RESPONSE_RATE * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
  pull = central_differences(leader, theta)
  by_own = central_differences(lambda a: follower(theta, a) - follower(best, a), own)
  by_theta = central_differences(lambda t: follower(t, own), theta)
  norm = np.sum(by_own**2) + np.sum(by_theta**2)
  weight = max(0.0, gue.ETA - np.sum(pull * by_theta) / norm)
  assert weight > 0
  expected = own - rate_a * weight * by_own, theta - rate_theta * (pull + weight * by_theta)

  generator, classifier = Scaled(), Linear()
  rates = optax.sgd(rate_a), optax.sgd(rate_theta)
  params = (
    {"weights": jnp.array(own, jnp.float32)},
    {"Dense_0": {"kernel": jnp.array(theta, jnp.float32)}},
  )
  stats = {"none": jnp.zeros(())}, {}
  states = (step.State(p, s, rate.init(p)) for p, s, rate in zip(params, stats, rates, strict=True))
  ids = np.arange(8, dtype=np.int32)
  table = sharding.shard(lanes.Table(pixels.reshape(8, -1), labels, ids, (2, 2, 1)))
  order = sharding.shard(np.tile(np.arange(8 // devices, dtype=np.int32), devices)[:, None])
  data = step.Pass(table, sharding.shard(mask), order, prng.stream(0))
  move = jax.jit(gue.game_step(generator, classifier, rates, settings))
  carry = sharding.replicate((*states, step.Sums.zero(), step.Sums.zero()))
  first, second, learned, paid = move(carry, data, jnp.int32(0))
  found = first.params["weights"], second.params["Dense_0"]["kernel"]
  np.testing.assert_allclose(found[0] - own, expected[0] - own, rtol=0.01, atol=1e-7)
  np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-5)
  assert learned.loss == pytest.approx(follower(theta, own), rel=1e-5)
  assert paid.loss == pytest.approx(leader(theta), rel=1e-5)
  hits = np.argmax(poisoned(own) @ theta, axis=1) == labels
  assert learned.correct == hits.sum()


def test_the_payoff_is_bounded_where_the_classifier_errs():
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(0, 3, (9, 4)).astype(np.float32), rng.integers(0, 4, 9)
  exact = np.log(np.exp(logits.astype(np.float64)).sum(axis=1))[:, None] - logits
  exact[np.arange(9), labels] = -np.inf
  np.testing.assert_allclose(gue.payoff(logits, labels), exact.max(axis=1), rtol=1e-5)
  # The least payoff: the true class is ruled out and the others are equally likely.
  lost = np.where(np.arange(4)[None, :] == labels[:, None], -80.0, 0.0).astype(np.float32)
  np.testing.assert_allclose(gue.payoff(lost, labels), np.log(3), rtol=1e-6)


@pytest.mark.parametrize("sign", [-3.0, 0.0, 30.0])
def test_the_follower_never_falls_behind(sign):
  rng = np.random.default_rng(1)
  by_own, by_theta = rng.normal(size=5), rng.normal(size=7)
  pull = sign * by_theta + 0.1 * rng.normal(size=7)
  for_own, for_theta = gue.directions(*map(jnp.asarray, (pull, by_own, by_theta)))
  norm = by_own @ by_own + by_theta @ by_theta
  rate = by_own @ np.asarray(for_own) + by_theta @ np.asarray(for_theta)
  if sign > 0:  # F and q fall together, so that F alone decides
    np.testing.assert_allclose(for_theta, pull, rtol=1e-5)
    np.testing.assert_array_equal(for_own, 0)
    assert rate > gue.ETA * norm
  else:
    assert rate == pytest.approx(gue.ETA * norm, rel=1e-4)


@pytest.mark.long
def test_the_follower_learns_the_poison_and_the_payoff_keeps_its_bound(generate):
  history = generate(epochs=20).history
  assert [len(values) for values in history.values()] == [20, 20, 20]
  assert history["source_loss"][-1] < 0.8 * history["source_loss"][0]
  assert history["source_accuracy"][-1] > history["source_accuracy"][0]
  assert min(history["objective"]) > np.log(CLASSES - 1)


@pytest.mark.long
def test_one_picture_has_one_perturbation_whatever_its_label(generate):
  # A large budget shows what so few steps make of different images.
  delta = generate(epsilon=64 / 255).delta
  np.testing.assert_array_equal(delta[0], delta[1])
  assert (delta[0] != delta[2]).any()
  assert delta.any(axis=(1, 2, 3)).all()


@pytest.mark.long
@pytest.mark.parametrize("changes", [{"epsilon": 5 / 255}, {"fraction": 0.5}, {"only_class": 1}])
def test_the_budget_and_the_choice_of_images_are_kept(generate, changes):
  made = generate(**changes)
  assert made.delta.dtype == np.int8
  assert 0 < np.abs(made.delta).max() <= round(255 * changes.get("epsilon", 8 / 255))
  changed = np.flatnonzero(made.delta.any(axis=(1, 2, 3)))
  chosen = np.arange(COUNT) if made.perturbed is None else made.perturbed
  np.testing.assert_array_equal(changed, chosen)


@pytest.mark.long
def test_an_interrupted_run_ends_in_the_same_bytes(generate):
  expected = generate("whole")
  for stop in (1, STEPS, 2 * STEPS):
    with pytest.raises(signals.Interrupted, match="SIGTERM"):
      generate("parts", stop_at=stop)
  resumed = generate("parts")
  assert resumed.delta.tobytes() == expected.delta.tobytes()
  assert resumed.history == expected.history


@pytest.mark.long
def test_the_number_of_devices_does_not_matter(generate):
  # One pass only: q is a small difference of two losses, and every move magnifies its rounding.
  one, four = (generate(str(n), devices=n, epochs=1) for n in (1, 4))
  for name, values in one.history.items():
    np.testing.assert_allclose(four.history[name], values, rtol=1e-3)
  assert np.abs(four.delta.astype(int) - one.delta).max() <= 1
  assert np.mean(four.delta == one.delta) >= 0.98


@pytest.mark.parametrize(
  "changes", [{"class_wise": True}, {"balanced": True}, {"init": "random"}, {"norm": "l2"}]
)
def test_settings_that_it_cannot_keep_are_refused(generate, changes):
  with pytest.raises(UserError, match=f"Unknown setting {next(iter(changes))}"):
    generate(**changes)


def test_images_that_are_too_small_are_refused(generate):
  small = Dataset("tiny", Split(DATASET.train.images[:, :6], DATASET.train.labels), None, ("a",))
  with pytest.raises(UserError, match=f"at least {unet.MIN_SIDE}x{unet.MIN_SIDE}"):
    generate(dataset=small)
