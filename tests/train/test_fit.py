"""The trainer against PyTorch, over devices, and across interruptions."""

import dataclasses
import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from miue_jax import models
from miue_jax.data.dataset import Split
from miue_jax.machine import loops, prng, sharding, signals
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.models import layers
from miue_jax.settings.config import Fit, Sgd
from miue_jax.settings.errors import UserError
from miue_jax.train import fit, lanes, pretrained
from miue_jax.transforms import hooks

CLASSES = 3
CONFIG = Fit(epochs=3, batch_size=8, augment="crop_flip", weight_decay=1e-2, checkpoint_every=2)
STEPS = 5  # full batches of 8 in 42 images


class Tiny(nn.Module):
  """One hidden layer with batch norm: all that a network brings to the trainer, soon compiled."""

  @nn.compact
  def __call__(self, images, train=False):
    hidden = nn.Dense(8)(images.reshape(len(images), -1))
    features = nn.relu(layers.batch_norm(train, "float32")(hidden))
    return features, layers.classifier(CLASSES)(features)


class Linear(nn.Module):
  @nn.compact
  def __call__(self, images, train=False):
    features = images.reshape(len(images), -1)
    return features, layers.classifier(CLASSES)(features)


def make_split(count, seed=0):
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (count, 6, 6, 1), np.uint8)
  return Split(images, rng.integers(0, CLASSES, count, np.int32))


TRAIN, TEST = make_split(42), make_split(9, seed=1)


@pytest.fixture
def run_fit(reporter):
  """Returns `run_fit(folder, ...)`, which is `fit.fit` on tiny data."""

  def run(folder, module=None, config=CONFIG, stop_at=None, progress=None, **rest):
    return fit.fit(
      module or Tiny(),
      config,
      TRAIN,
      TEST,
      seed=3,
      name="tiny",
      checkpoints=Checkpoints(folder),
      progress=progress or reporter(stop_at),
      **rest,
    )

  return run


def to_bytes(tree):
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def assert_close(tree, expected, tolerance):
  for one, other in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(1, np.abs(other).max()))


def learning_rates(config, epochs, steps):
  """The rate of every step, read off updates of gradient 1."""
  optimiser = fit.sgd(config, epochs, steps)

  def step(state, _):
    update, state = optimiser.update(jnp.float32(1), state, jnp.float32(0))
    return state, -update

  return jax.lax.scan(step, optimiser.init(jnp.float32(0)), length=epochs * steps)[1]


def test_learning_rate_is_the_published_table():
  rates = learning_rates(Sgd(momentum=0.0), 100, 3).reshape(100, 3)
  assert (rates == rates[:, :1]).all()
  for epoch, rate in [(1, 0.1), (25, 0.08645), (50, 0.05157), (75, 0.01577), (100, 2.567e-5)]:
    # The last is a difference of numbers near 1: float32 leaves three digits of it.
    assert float(rates[epoch - 1, 0]) == pytest.approx(rate, rel=5e-3 if epoch == 100 else 5e-4)


def test_the_learning_rate_of_adversarial_training_drops_at_40_and_80_percent():
  rates = learning_rates(Sgd(momentum=0.0, schedule="steps"), 100, 3).reshape(100, 3)
  np.testing.assert_allclose(rates[:40], 0.1)
  np.testing.assert_allclose(rates[40:80], 0.01, rtol=1e-6)
  np.testing.assert_allclose(rates[80:], 0.001, rtol=1e-6)


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
  optimiser = fit.sgd(config, epochs, steps)
  params, state = jnp.array(start), optimiser.init(jnp.array(start))
  update = jax.jit(optimiser.update)
  for step, gradient in enumerate(gradients, 1):
    weight.grad = torch.tensor(gradient)
    theirs.step()
    if step % steps == 0:
      scheduler.step()
    updates, state = update(jnp.array(gradient), state, params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, weight.detach(), rtol=1e-5, atol=1e-6)


def test_a_whole_fit_is_pytorchs(tmp_path, use_devices, run_fit):
  torch = pytest.importorskip("torch")
  use_devices(2)
  config = Fit(epochs=3, batch_size=8, learning_rate=0.2, weight_decay=1e-2, augment="none")
  fitted = run_fit(tmp_path, Linear(), config)

  initial = models.init(Linear(), prng.stream(3, "weights"), TRAIN.images.shape[1:])["params"]
  network = torch.nn.Linear(36, CLASSES)
  with torch.no_grad():
    network.weight.copy_(torch.tensor(np.asarray(initial["classifier"]["kernel"]).T))
    network.bias.copy_(torch.tensor(np.asarray(initial["classifier"]["bias"])))
  theirs = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-2)
  schedule = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 3, eta_min=1e-6)
  pixels = torch.tensor(TRAIN.images.reshape(42, -1) / np.float32(255))
  labels = torch.tensor(TRAIN.labels.astype(np.int64))
  layout = lanes.lay_out(42, (8,), 3)
  curve = []
  for epoch in range(3):
    order = lanes.shuffle(prng.stream(3, "fit", epoch), layout.ids, 8)
    losses, correct = [], 0
    for batch in layout.ids[np.asarray(order).T[:STEPS]]:
      logits = network(pixels[batch])
      loss = torch.nn.functional.cross_entropy(logits, labels[batch])
      theirs.zero_grad()
      loss.backward()
      theirs.step()
      losses.append(loss.item())
      correct += (logits.argmax(1) == labels[batch]).sum().item()
    schedule.step()
    with torch.no_grad():
      seen = network(torch.tensor(TEST.images.reshape(9, -1) / np.float32(255))).argmax(1).numpy()
    curve.append([np.mean(losses), 100 * correct / 40, 100 * np.mean(seen == TEST.labels)])
  np.testing.assert_allclose(fitted.curve, curve, rtol=1e-4)
  ours = fitted.state.params["classifier"]
  np.testing.assert_allclose(ours["kernel"].T, network.weight.detach(), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(ours["bias"], network.bias.detach(), rtol=1e-4, atol=1e-5)


def one_pass(platform):
  """State and sums after one pass as it is driven on `platform`; the devices stay CPUs."""
  optimiser = fit.sgd(CONFIG, CONFIG.epochs, STEPS)
  state = fit.init(Tiny(), optimiser, jax.random.key(0), TRAIN.images.shape[1:])
  table = lanes.lay_out(42, (8,), 0).place(TRAIN)
  key = prng.stream(0, "fit", 0)
  constants = fit.Pass(table, None, fit.shuffler(8)(key, table.ids), key)
  step = fit.train_step(Tiny(), optimiser, fit.plain_inputs("crop_flip"), jax.P("data"))
  mesh = types.SimpleNamespace(devices=np.array([types.SimpleNamespace(platform=platform)]))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax.sharding, "get_mesh", lambda: mesh)
    run = loops.repeated(step)
  (state, sums), reached = run((state, fit.Sums.zero()), constants, 0, STEPS)
  assert reached == STEPS
  return state, sums


def test_both_drivers_train_the_same_model(use_devices):
  use_devices(2)
  assert_close(one_pass("gpu"), one_pass("cpu"), 1e-5)


def test_a_fit_does_not_depend_on_the_number_of_devices(tmp_path, use_devices, run_fit):
  fitted = {}
  for devices in (1, 2, 4, 8):
    use_devices(devices)
    fitted[devices] = run_fit(tmp_path / str(devices))
    assert_close(fitted[devices].state, fitted[1].state, 2e-4)
    # 15 steps of momentum SGD amplify the last bits of the sums. An accuracy moves in hundredths
    # of the images: it is either equal or another one.
    np.testing.assert_allclose(fitted[devices].curve, fitted[1].curve, rtol=1e-4)
  assert np.abs(np.asarray(fitted[1].curve)[:, 0]).min() > 0


def test_an_epoch_moves_nothing_unasked_and_the_second_compiles_nothing(
  tmp_path, use_devices, run_fit, no_transfers, epoch_reporter
):
  use_devices(2)
  progress, compiled = epoch_reporter
  fit._compiled.cache_clear()
  fit.inference.cache_clear()
  # The first checkpoint compiles what slices it, after the last report.
  run_fit(tmp_path, config=dataclasses.replace(CONFIG, checkpoint_every=3), progress=progress)
  assert len(compiled) == CONFIG.epochs
  assert compiled[0] > 0
  assert compiled[1] == compiled[2] == compiled[0]


def test_validation_adds_a_column_and_changes_nothing_else(tmp_path, use_devices, run_fit):
  use_devices(1)
  plain = run_fit(tmp_path / "plain")
  validated = run_fit(tmp_path / "validated", validation=TRAIN)
  assert to_bytes(validated.state) == to_bytes(plain.state)
  np.testing.assert_array_equal(validated.curve[:, :3], plain.curve)
  _, logits = fit.Predictor(Tiny())(plain.state, TRAIN.images)
  expected = 100 * np.mean(np.argmax(logits, axis=1) == TRAIN.labels)
  assert float(validated.curve[-1, 3]) == pytest.approx(expected)


def test_hooks_act_on_augmented_images_with_keys_of_their_own(tmp_path, use_devices, run_fit):
  """What replaces all images and labels leaves nothing of the data, whatever the order."""
  use_devices(2)
  labels = hooks.Targets(jnp.array([[0, 2]]), jnp.array([[0.25, 0.75]]))

  def replace(keys, images, targets):
    assert images.shape == (4, 6, 6, 1)
    wide = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(images), 2)), labels)
    return jnp.zeros_like(images) + 0.5, wide

  config = dataclasses.replace(CONFIG, learning_rate=1.0, weight_decay=0.0, epochs=30)
  fitted = run_fit(tmp_path, Linear(), config, hooks=hooks.Hooks(augment=replace))
  # Cross-entropy ends at the entropy of the soft label; the likelier class counts as 3/4 right.
  entropy = -0.25 * np.log(0.25) - 0.75 * np.log(0.75)
  loss, accuracy, _ = np.asarray(fitted.curve)[-1]
  assert loss == pytest.approx(entropy, abs=0.03)
  assert accuracy == 75


def test_the_adversary_sees_the_frozen_model_and_later_hooks_take_over(
  tmp_path, use_devices, run_fit
):
  use_devices(2)
  phases = []

  def adversary(keys, images, loss):
    assert loss(images).shape == (4,)
    phases.append("first")
    return jnp.where(loss(images)[:, None, None, None] > -1, 0.0, images)  # always black

  def later(keys, images, targets):
    phases.append("then")
    return jnp.zeros_like(images), targets

  acting = hooks.Hooks(adversary=adversary, share=0.3, then=hooks.Hooks(augment=later))
  fitted = run_fit(tmp_path / "acting", Tiny(), hooks=acting)
  assert phases[0] == "first"
  assert phases[-1] == "then"
  black = hooks.Hooks(augment=lambda keys, images, targets: (jnp.zeros_like(images), targets))
  assert_close(fitted.state, run_fit(tmp_path / "black", Tiny(), hooks=black).state, 1e-6)
  # The first epoch of three is the first 30 %, rounded up.
  assert [acting.at(epoch, 3) is acting for epoch in range(3)] == [True, False, False]


def test_seeds_differ(use_devices):
  use_devices(1)
  weights = [
    fit.fresh(Tiny(), CONFIG, TRAIN, seed).state.params["Dense_0"]["kernel"] for seed in (0, 0, 1)
  ]
  assert (weights[0] == weights[1]).all()
  assert (weights[0] != weights[2]).any()


@pytest.mark.parametrize("steps", [(3,), (STEPS,), (7, 2 * STEPS, 14), (3 * STEPS,)])
def test_an_interrupted_fit_ends_in_the_same_bytes(tmp_path, use_devices, run_fit, steps):
  use_devices(2)
  expected = run_fit(tmp_path / "whole")
  for step in steps:
    with pytest.raises(signals.Interrupted, match="SIGTERM"):
      run_fit(tmp_path / "parts", stop_at=step)
  resumed = run_fit(tmp_path / "parts")
  assert to_bytes(resumed.state) == to_bytes(expected.state)
  assert to_bytes(resumed.curve) == to_bytes(expected.curve)


def test_a_fit_continues_on_another_number_of_devices(tmp_path, use_devices, run_fit):
  use_devices(4)
  expected = run_fit(tmp_path / "whole")
  with pytest.raises(signals.Interrupted):
    run_fit(tmp_path / "parts", stop_at=7)
  use_devices(1)
  assert_close(run_fit(tmp_path / "parts").state, expected.state, 2e-4)


def test_a_finished_fit_is_not_repeated(tmp_path, use_devices, run_fit):
  use_devices(1)
  expected = run_fit(tmp_path)
  # The seconds among them: no step was taken.
  assert to_bytes(run_fit(tmp_path)) == to_bytes(expected)


def test_a_loss_that_is_not_finite_is_an_error_with_its_step(tmp_path, use_devices, run_fit):
  use_devices(2)
  # The first update overflows, so the second loss (step 1) is the first bad one.
  config = Fit(epochs=2, batch_size=8, learning_rate=3e38)
  with pytest.raises(UserError, match=r"loss of tiny, epoch 1 is not finite at step 1: lower"):
    run_fit(tmp_path, config=config)


def test_sums_read_means_and_remember_the_first_bad_step(use_devices):
  use_devices(1)
  sums = fit.Sums.zero().add(4, jnp.float32(1.0), 3, 8).add(5, jnp.float32(2.0), 5, 8)
  assert sums.read("x") == (1.5, 50.0)
  bad = sums.add(6, jnp.float32(jnp.inf), 0, 8).add(7, jnp.float32(jnp.nan), 0, 8)
  with pytest.raises(UserError, match="step 6"):
    bad.read("x")


def test_fewer_images_than_a_batch_is_an_error(tmp_path, use_devices, run_fit):
  use_devices(1)
  with pytest.raises(UserError, match="42 training images do not fill one batch of 64"):
    run_fit(tmp_path, config=Fit(batch_size=64))


@pytest.mark.parametrize("count", [1, 4, 7, 8, 9])
def test_predictor_is_the_module_for_any_number_of_images(use_devices, monkeypatch, count):
  use_devices(2)
  monkeypatch.setattr(fit, "EVALUATION_BATCH", 4)
  module = Tiny()
  state = fit.fresh(module, CONFIG, TRAIN, 0).state
  # Running statistics that are not the initial ones.
  state = state.replace(batch_stats=jax.tree.map(lambda x: x + 0.5, state.batch_stats))
  images = make_split(count, seed=2).images
  features, logits = fit.Predictor(module)(state, images)
  expected = functools.partial(module.apply, state.variables)(images / np.float32(255))
  np.testing.assert_allclose(features, expected[0], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(logits, expected[1], rtol=1e-5, atol=1e-6)


def test_training_starts_from_the_weights_of_a_file(run_fit, tmp_path, use_devices):
  use_devices(1)
  trained = run_fit(tmp_path / "first").state
  pretrained.save(sharding.fetch(trained.variables), tmp_path / "weights.npz")
  # A rate that moves nothing leaves what it started from.
  still = dataclasses.replace(CONFIG, learning_rate=1e-12, final_learning_rate=0.0, epochs=1)
  start = dataclasses.replace(still, start_from=str(tmp_path / "weights.npz"))
  found = run_fit(tmp_path / "second", config=start).state
  assert_close(found.params, trained.params, 1e-6)
  fresh = run_fit(tmp_path / "third", config=still).state
  assert np.abs(fresh.params["Dense_0"]["kernel"] - trained.params["Dense_0"]["kernel"]).max() > 0.1
