"""Which images are perturbed, where delta starts, and what one sign step does."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax import budget
from miue_jax.data.dataset import Dataset, Split
from miue_jax.machine import prng, sharding
from miue_jax.methods import delta as deltas
from miue_jax.settings.config import Config, Method, Sgd
from miue_jax.settings.errors import UserError
from miue_jax.train import fit, lanes

COUNT, CLASSES = 22, 3


class Pixels(nn.Module):
  """Features and logits are pixels."""

  @nn.compact
  def __call__(self, images, train=False):
    pixels = images.reshape(len(images), -1)
    return pixels, pixels[:, :CLASSES]


def make_dataset(count=COUNT):
  rng = np.random.default_rng(0)
  # Black and white pixels among them, where no delta fits in one direction.
  images = rng.integers(-40, 296, (count, 6, 6, 1)).clip(0, 255).astype(np.uint8)
  labels = rng.permutation(np.minimum(np.arange(count) // 5, CLASSES - 1)).astype(np.int32)
  return Dataset("tiny", Split(images, labels), None, ("a", "b", "c"))


@pytest.mark.parametrize("class_wise", [False, True])
def test_images_that_are_not_chosen_stay_clean_for_the_source_model(class_wise):
  method = Method(class_wise=class_wise)
  inputs = deltas.source_inputs(Config(method=method, source=Sgd(augment="none")))
  dataset = make_dataset()
  images, labels = dataset.train.images[:6], jnp.array(dataset.train.labels[:6])
  perturbed = np.array([True, False, True, True, False, False])
  shape = (CLASSES if class_wise else 6, 6, 6, 1)
  delta = budget.pack(jnp.full(shape, 5 / 255), budget.resolution(method.epsilon_start))
  table = lanes.Table(jnp.array(images), labels, jnp.arange(6))
  keys = jax.random.split(jax.random.key(0), 6)
  seen = 255 * inputs(table, (delta, jnp.array(perturbed)), jnp.arange(6), keys)
  expected = images + 5.0 * perturbed[:, None, None, None]
  # A pattern shared by a class fits no single image, so there the sum is clipped.
  expected = expected.clip(0, 255) if class_wise else expected
  np.testing.assert_allclose(seen, expected, atol=1e-3)


def test_classes_may_have_fractions_of_their_own():
  labels = np.repeat([0, 1, 2], [10, 20, 30])
  chosen = deltas.chosen_images(labels, Method(class_fractions=(0.5, 1.0, 0.0)), 1)
  assert np.bincount(labels[chosen], minlength=3).tolist() == [5, 20, 0]
  of_one = deltas.chosen_images(labels[:10], Method(fraction=0.5), 1)
  np.testing.assert_array_equal(chosen[:10], of_one)


def test_a_larger_fraction_contains_a_smaller_one():
  labels = np.random.default_rng(0).integers(0, 4, 200)
  chosen = [
    set(np.flatnonzero(deltas.chosen_images(labels, Method(fraction=f), 1)))
    for f in (0.1, 0.35, 0.8, 1.0)
  ]
  assert [len(ids) for ids in chosen] == [20, 70, 160, 200]
  assert chosen[0] < chosen[1] < chosen[2] < chosen[3]
  other_seed = deltas.chosen_images(labels, Method(fraction=0.1), 2)
  assert set(np.flatnonzero(other_seed)) != chosen[0]


def test_a_choice_of_no_image_is_an_error():
  labels = np.arange(30) % 3
  with pytest.raises(UserError, match=r"method\.fraction=0\.01 .* leaves no image"):
    deltas.chosen_images(labels, Method(fraction=0.01), 0)
  with pytest.raises(UserError, match=r"class_fractions=\(0\.01, 0\.0, 0\.0\) leaves no image"):
    deltas.chosen_images(labels, Method(class_fractions=(0.01, 0.0, 0.0)), 0)


@pytest.mark.parametrize("class_wise", [False, True])
def test_noise_to_start_from_is_one_stream_in_example_order(use_devices, monkeypatch, class_wise):
  use_devices(2)
  monkeypatch.setattr(budget, "_BLOCK_VALUES", 180)  # five images; a generator draws pairs
  dataset = make_dataset()
  method = Method(init="random", class_wise=class_wise, epsilon=1 / 255)
  layout = lanes.lay_out(COUNT, (8,), 0)
  stored = deltas.first_delta(dataset, method, layout, 3)
  stored = (
    sharding.fetch(stored) if class_wise else layout.fetch(stored, np.asarray, stored.shape[1:])
  )
  found = budget.unpack(stored, budget.resolution(method.epsilon_start))
  count = CLASSES if class_wise else COUNT
  noise = np.random.default_rng(3).random((count, 6, 6, 1), np.float32)
  expected = np.float32(1 / 255) * (2 * noise - 1)
  # float32 draws, stored in 2048ths of a 255th
  np.testing.assert_allclose(found, expected, rtol=0, atol=0.51 / 2048 / 255)


@pytest.fixture
def step(use_devices):
  """Returns `step(dataset, objective, ...)`: delta in 255ths and sums after one sign step."""

  def run(dataset, objective, adversary=None, index=0, **changes):
    use_devices(2)
    method = dataclasses.replace(Method(batch_size=8, augment="none"), **changes)
    layout = lanes.lay_out(len(dataset.train), (8,), 0)
    table, key = layout.place(dataset.train), prng.stream(0)
    data = fit.Pass(table, None, fit.shuffler(8)(key, table.ids), key)
    sizes = sharding.replicate((np.float32(3 / 255), np.float32(8 / 255)))
    state = sharding.replicate(fit.State({}, {}, ()))
    constants = deltas.DeltaPass(state, data, sharding.shard(layout.ids >= 0), *sizes)
    start = deltas.first_delta(dataset, method, layout, 0)
    made = jax.jit(deltas.delta_step(Pixels(), method, objective, adversary))(
      (start, fit.Sums.zero(), None), constants, jnp.int32(index)
    )
    stored = layout.fetch(made[0], np.asarray, made[0].shape[1:])
    sums = sharding.fetch(made[1])
    return 255 * budget.unpack(stored, budget.resolution(method.epsilon_start)), sums

  return run


def energy(features, logits, labels, weights):
  del logits, labels, weights
  return jnp.sum(features**2, axis=1)


@pytest.mark.parametrize("microbatch", [0, 4])
def test_what_the_adversary_adds_is_a_constant_of_the_gradient(step, microbatch):
  dataset = make_dataset(8)
  # A thing that falls with the image: to differentiate through it would turn every sign.
  delta, sums = step(dataset, energy, lambda keys, x, loss: 1.1 - 3 * x, microbatch=microbatch)
  levels = dataset.train.images.astype(float)
  seen = 1.1 - 3 * levels / 255
  moved = (levels - 3 * np.sign(seen)).clip(0, 255) - levels
  np.testing.assert_allclose(delta, moved, atol=1e-3)
  np.testing.assert_allclose(sums.loss, np.mean(np.sum(seen**2, axis=(1, 2, 3))), rtol=1e-5)


def test_the_adversary_is_given_the_loss_and_a_key_of_every_row(step):
  dataset = make_dataset(8)
  seen = []

  def adversary(keys, images, loss):
    jax.debug.callback(lambda *x: seen.append(x), jax.random.key_data(keys), images, loss(images))
    return images

  step(dataset, energy, adversary, index=0, steps=2, augment_poisoned=True, draws=2)
  jax.effects_barrier()
  keys, images, losses = (np.concatenate(x) for x in zip(*seen, strict=True))
  assert len(np.unique(keys, axis=0)) == len(keys) == 16  # two draws
  exact = images.astype(np.float64)
  logits = exact.reshape(16, -1)[:, :CLASSES]
  apart = np.abs(dataset.train.images / 255 - exact[:, None]).max(axis=(2, 3, 4))
  labels = dataset.train.labels[np.argmin(apart, axis=1)]
  expected = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(16), labels]
  np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_only_the_last_step_of_a_batch_counts_what_is_right(step):
  dataset = make_dataset(COUNT)
  first_pixels = dataset.train.images.reshape(COUNT, -1)[:, :CLASSES]
  right = np.argmax(first_pixels, axis=1) == dataset.train.labels
  correct = count = 0
  for batch in range(3):
    for sign_step in range(2):
      index = 2 * batch + sign_step
      _, sums = step(dataset, energy, index=index, steps=2, stop_error=1.0)
      assert sums.count == 0 or sign_step == 1
      correct, count = correct + sums.correct, count + sums.count
  assert count == COUNT  # padding left out
  assert correct == right.sum()
  _, sums = step(dataset, energy, index=1, steps=2)
  assert sums.count == 0  # nobody asked


def test_a_budget_that_signs_cannot_keep_is_refused():
  train = make_dataset().train
  with pytest.raises(UserError, match=r"method\.norm=l2 does not bound: set method\.norm=linf"):
    deltas.lay_out(train, Config(method=Method(norm="l2"), source=Sgd(batch_size=8)))


def test_fewer_images_than_a_source_batch_are_refused():
  with pytest.raises(UserError, match="7 training images do not fill one source batch of 8"):
    deltas.lay_out(make_dataset(7).train, Config(source=Sgd(batch_size=8)))
