"""Tests EM and AP with MINE: the bound in float64, its gradient, and its effect on a poison."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import Tiny, central_differences, noisy_dataset

from miue_jax.information import neural
from miue_jax.machine import sharding, signals
from miue_jax.machine.meshes import AXIS
from miue_jax.methods import METHODS, mine
from miue_jax.plan import programs, sizes
from miue_jax.settings.config import Config, Model, Sgd
from miue_jax.settings.errors import UserError

COUNT, CLASSES, BATCH = 44, 3, 16
SHARED = {
  "model": Model(name="tiny"),
  "source": Sgd(batch_size=8, augment="flip"),
  "epochs": 2,
  "batch_size": BATCH,
  "steps": 4,
  "augment": "flip",
  "augment_poisoned": True,
  "checkpoint_every": 1,
}
SETTINGS = {
  "em_mine": mine.EmSettings(
    **SHARED,
    source_steps=0,
    stop_error=0.0,
    step_size_start=1.6 / 255,
    step_size_end=1.6 / 255,
    information_weight=0.5,
  ),
  "ap_mine": mine.ApSettings(
    **SHARED, init="zeros", restarts=1, step_size=1.6 / 255, information_weight=0.5
  ),
}
SOURCE_STEPS, BATCHES = COUNT // 8, -(-COUNT // BATCH)


DATASET = noisy_dataset(COUNT)


@pytest.fixture
def generate(runs):
  """Returns `generate(...)`, which generates a perturbation, by default on two devices."""

  def run(folder="run", name="em_mine", **changes):
    return runs(DATASET, SETTINGS[f"{name.removesuffix('_mine')}_mine"])(folder, name, **changes)

  return run


def donsker_varadhan(scores, weights):
  """Returns the bound in float64, computed pair by pair."""
  joint = np.sum(weights * np.diagonal(scores)) / weights.sum()
  pairs = [(i, j) for i in range(len(scores)) for j in range(len(scores)) if i != j]
  shares = np.array([weights[i] * weights[j] for i, j in pairs])
  raised = np.exp([scores[i, j] for i, j in pairs])
  return joint - np.log(np.sum(shares * raised) / shares.sum())


def on_mesh(scores, weights):
  """Returns the bound of the global batch and its gradient with respect to the scores."""

  def local(scores, weights):
    everywhere = jax.lax.all_gather(weights, AXIS, tiled=True)

    def value(scores):
      own, log_others = mine.bound(scores, weights, everywhere)
      total = jnp.maximum(jax.lax.psum(jnp.sum(weights), AXIS), 1e-12)
      return jax.lax.psum(jnp.sum(weights * own), AXIS) / total - log_others

    return jax.value_and_grad(value)(scores)

  mapped = jax.shard_map(local, in_specs=jax.P(AXIS), out_specs=(jax.P(), jax.P(AXIS)))
  return jax.jit(mapped)(jnp.asarray(scores, jnp.float32), jnp.asarray(weights, jnp.float32))


def test_the_bound_is_donsker_varadhan_with_its_gradient(use_devices):
  use_devices(2)
  rng = np.random.default_rng(0)
  scores = 40 + 5 * rng.normal(size=(8, 8))  # float32 has no e^90
  weights = np.array([1, 2, 0.5, 1, 3, 1, 0, 0])
  value, gradient = on_mesh(scores, weights)
  assert value == pytest.approx(donsker_varadhan(scores, weights), rel=1e-5)
  slope = central_differences(lambda x: donsker_varadhan(x, weights), scores, 1e-5)
  np.testing.assert_allclose(gradient, slope, atol=1e-4)


def test_the_bound_is_that_of_the_estimator(use_devices):
  use_devices(4)
  scores = np.random.default_rng(1).normal(size=(8, 8))
  value, _ = on_mesh(scores, np.ones(8))
  assert value == pytest.approx(float(neural._value("mine", jnp.asarray(scores))), rel=1e-5)


@pytest.mark.parametrize("weights", [[1, 0, 0, 0], [0, 0, 0, 0]])
def test_a_batch_without_pairs_has_no_information_and_a_gradient(use_devices, weights):
  use_devices(2)
  value, gradient = on_mesh(np.ones((4, 4)), np.array(weights))
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)


@pytest.mark.long
def test_the_critic_learns_shared_information(use_devices):
  use_devices(2)
  auxiliary = mine.auxiliary(mine.EmSettings(information_weight=1.0))
  rng = np.random.default_rng(2)
  first = rng.normal(size=(301, 64, 3)).astype(np.float32)
  second = 0.9 * first + np.sqrt(1 - 0.9**2) * rng.normal(size=first.shape).astype(np.float32)

  def local(state, clean, poisoned, weights):
    rows, state = auxiliary.term(state, clean, poisoned, weights)
    return jax.lax.pmean(jnp.mean(rows), AXIS), state

  step = jax.jit(
    jax.shard_map(
      local, in_specs=(jax.P(), jax.P(AXIS), jax.P(AXIS), jax.P(AXIS)), out_specs=jax.P()
    )
  )
  state = sharding.replicate(auxiliary.start(jax.random.key(0), 3))
  ones = jnp.ones(64)
  for clean, poisoned in zip(first[1:], second[1:], strict=True):
    _, state = step(state, clean, poisoned, ones)
  # The critic judges pairs that it has not seen; the truth is 3 x 0.83 nats.
  unseen, _ = step(state, first[0], second[0], ones)
  shuffled, _ = step(state, first[0], second[0][::-1], ones)
  assert 0.5 < float(unseen) < 3.5
  assert float(shuffled) < 0.1


def correlation(state, delta):
  """Returns the root mean square correlation of clean and poisoned features."""
  model = Tiny(Model(), CLASSES)
  clean = DATASET.train.images[:].astype(np.float32) / 255
  before, after = (
    np.asarray(model.apply(state.parts["source"].variables, images)[0], np.float64)
    for images in (clean, clean + delta.astype(np.float32) / 255)
  )
  standardised = [(x - x.mean(axis=0)) / (x.std(axis=0) + 1e-9) for x in (before, after)]
  return np.sqrt(np.mean(np.square(standardised[0].T @ standardised[1] / COUNT)))


@pytest.mark.long
@pytest.mark.parametrize("name", ["em_mine", "ap_mine"])
def test_features_share_less_information(generate, name):
  # Many steps of one large batch: the critic of so few images has to learn first.
  settings = {"name": name, "batch_size": 48, "steps": 60, "epochs": 2, "augment": "none"}
  found = [
    correlation(state, made.delta)
    for made, state in (generate(str(z), information_weight=z, **settings) for z in (0.0, 5.0))
  ]
  assert found[1] < found[0]


@pytest.mark.long
@pytest.mark.parametrize("name", ["em", "ap"])
def test_without_weight_nothing_changes(generate, name):
  plain, _ = generate("plain", name=name)
  made, _ = generate("mine", name=f"{name}_mine", information_weight=0.0)
  assert made.delta.tobytes() == plain.delta.tobytes()
  assert made.history == plain.history


@pytest.mark.long
def test_one_pattern_for_a_class_is_made_as_well(generate):
  made, _ = generate(class_wise=True)
  labels = DATASET.train.labels
  for label in range(CLASSES):
    patterns = made.delta[labels == label]
    np.testing.assert_array_equal(patterns, np.broadcast_to(patterns[:1], patterns.shape))


@pytest.mark.long
def test_an_interrupted_run_ends_in_the_same_bytes(generate):
  expected, _ = generate("whole", name="em_mine")
  for step in (SOURCE_STEPS + 3, SOURCE_STEPS + 4 * BATCHES):
    with pytest.raises(signals.Interrupted, match="SIGTERM"):
      generate("parts", name="em_mine", stop_at=step)
  resumed, _ = generate("parts", name="em_mine")
  assert resumed.delta.tobytes() == expected.delta.tobytes()
  assert resumed.history == expected.history


@pytest.mark.long
@pytest.mark.parametrize("name", ["em_mine", "ap_mine"])
def test_the_number_of_devices_does_not_matter(generate, name):
  (one, _), (four, _) = (generate(str(n), name=name, devices=n, epochs=1) for n in (1, 4))
  np.testing.assert_allclose(four.history["source_loss"], one.history["source_loss"], rtol=1e-4)
  np.testing.assert_allclose(four.history["objective"], one.history["objective"], rtol=1e-3)
  # Adam's first steps all have the same size, so that rounding changes those of gradients near 0.
  assert np.mean(four.delta == one.delta) >= 0.9


@pytest.mark.long
def test_the_critic_sees_the_same_batch_on_any_number_of_devices(use_devices):
  auxiliary = mine.auxiliary(mine.EmSettings(information_weight=0.5))
  rng = np.random.default_rng(3)
  clean, poisoned = rng.normal(size=(2, 16, 5)).astype(np.float32)
  weights = np.array([1] * 13 + [0] * 3, np.float32)
  found = []
  for devices in (1, 2, 4):
    use_devices(devices)
    step = jax.jit(
      jax.shard_map(
        auxiliary.term,
        in_specs=(jax.P(), jax.P(AXIS), jax.P(AXIS), jax.P(AXIS)),
        out_specs=(jax.P(AXIS), jax.P()),
      )
    )
    state = sharding.replicate(auxiliary.start(jax.random.key(0), 5))
    rows, state = step(state, *map(sharding.shard, (clean, poisoned, weights)))
    # The moments of Adam show the gradient; its first step only shows the sign.
    found.append((rows, state.average, *jax.tree.leaves(state.opt_state)))
  for others in found[1:]:
    for one, other in zip(found[0], others, strict=True):
      np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


def test_ap_refuses_one_pattern_for_a_class(generate):
  with pytest.raises(UserError, match="Unknown setting class_wise"):
    generate(name="ap_mine", class_wise=True)


@pytest.mark.long
def test_a_plan_has_the_clean_forward_pass(use_devices):
  use_devices(1)
  network = Model(name="small_cnn", width=8)
  found = []
  for name in ("em", "em_mine"):
    method = METHODS[name].settings(model=network, batch_size=64, augment="flip")
    config = Config(method=method, victim=network, devices=1)
    built = programs.build(config, sizes.Sizes((16, 16, 1), 128, 64, 4))
    found.append(built["delta"].cost().flops)
  # A sign step is two forward passes, and the third sees clean images. The critic's second layer is
  # 64 x 64 for each of 64 x 64 pairs, five times: forward and two ways back when it learns, forward
  # and one way back for delta.
  assert found[1] - found[0] == pytest.approx(found[0] / 2 + 5 * 2 * 64**4, rel=0.1)
