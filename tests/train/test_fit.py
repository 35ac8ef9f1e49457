"""Tests the training of victims against PyTorch, over devices, and across interruptions."""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax import models
from miue_jax.data.dataset import Split
from miue_jax.machine import prng, sharding, signals
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.models import layers
from miue_jax.settings.config import Fit
from miue_jax.settings.errors import UserError
from miue_jax.train import fit, lanes, prediction, pretrained
from miue_jax.transforms import hooks

CLASSES = 3
CONFIG = Fit(epochs=3, batch_size=8, augment="crop_flip", weight_decay=1e-2, checkpoint_every=2)
STEPS = 5  # full batches of 8 in 42 images


class Tiny(nn.Module):
  """A network with one hidden layer and batch norm, which compiles quickly."""

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
  """Returns `run_fit(folder, ...)`, which calls `fit.fit` on tiny data."""

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
  pixels = torch.tensor(TRAIN.images[:].reshape(42, -1) / np.float32(255))
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
      flat = torch.tensor(TEST.images[:].reshape(9, -1) / np.float32(255))
      seen = network(flat).argmax(1).numpy()
    curve.append([np.mean(losses), 100 * correct / 40, 100 * np.mean(seen == TEST.labels)])
  np.testing.assert_allclose(fitted.curve, curve, rtol=1e-4)
  ours = fitted.state.params["classifier"]
  np.testing.assert_allclose(ours["kernel"].T, network.weight.detach(), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(ours["bias"], network.bias.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_fit_does_not_depend_on_the_number_of_devices(tmp_path, use_devices, run_fit):
  fitted = {}
  for devices in (1, 2, 4, 8):
    use_devices(devices)
    fitted[devices] = run_fit(tmp_path / str(devices))
    chex.assert_trees_all_close(fitted[devices].state, fitted[1].state, rtol=2e-4, atol=2e-4)
    # 15 steps of momentum SGD amplify the last bits of the sums. Accuracies are multiples of one
    # image: they are equal or differ by much.
    np.testing.assert_allclose(fitted[devices].curve, fitted[1].curve, rtol=1e-4)
  assert np.abs(np.asarray(fitted[1].curve)[:, 0]).min() > 0


def test_an_epoch_transfers_only_what_it_asks_for_and_later_ones_compile_nothing(
  tmp_path, use_devices, run_fit, no_transfers, epoch_reporter
):
  use_devices(2)
  progress, compiled = epoch_reporter
  fit._compiled.cache_clear()
  prediction.inference.cache_clear()
  # The first checkpoint compiles functions that slice arrays, after the last report.
  run_fit(tmp_path, config=dataclasses.replace(CONFIG, checkpoint_every=3), progress=progress)
  assert len(compiled) == CONFIG.epochs
  assert compiled[0] > 0
  assert compiled[1] == compiled[2] == compiled[0]


def test_validation_adds_a_column_and_changes_nothing_else(tmp_path, use_devices, run_fit):
  use_devices(1)
  plain = run_fit(tmp_path / "plain")
  validated = run_fit(tmp_path / "validated", validation=TRAIN)
  chex.assert_trees_all_equal(validated.state, plain.state)
  np.testing.assert_array_equal(validated.curve[:, :3], plain.curve)
  _, logits = prediction.predict(Tiny(), plain.state, TRAIN.images)
  expected = 100 * np.mean(np.argmax(logits, axis=1) == TRAIN.labels)
  assert float(validated.curve[-1, 3]) == pytest.approx(expected)


@pytest.mark.slow
def test_hooks_replace_augmented_images_and_labels(tmp_path, use_devices, run_fit):
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


@pytest.mark.long
def test_the_adversary_sees_the_frozen_model_and_later_hooks_follow(tmp_path, use_devices, run_fit):
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
  expected = run_fit(tmp_path / "black", Tiny(), hooks=black).state
  chex.assert_trees_all_close(fitted.state, expected, atol=1e-6)
  # The first epoch of three is the first 30 %, rounded up.
  assert [acting.at(epoch, 3) is acting for epoch in range(3)] == [True, False, False]


def test_seeds_differ(use_devices):
  use_devices(1)
  weights = [
    fit.fresh(Tiny(), CONFIG, TRAIN, seed).state.params["Dense_0"]["kernel"] for seed in (0, 0, 1)
  ]
  assert (weights[0] == weights[1]).all()
  assert (weights[0] != weights[2]).any()


@pytest.mark.slow
@pytest.mark.parametrize("steps", [(3,), (STEPS,), (7, 2 * STEPS, 14), (3 * STEPS,)])
def test_an_interrupted_fit_ends_in_the_same_bytes(tmp_path, use_devices, run_fit, steps):
  use_devices(2)
  expected = run_fit(tmp_path / "whole")
  for step in steps:
    with pytest.raises(signals.Interrupted, match="SIGTERM"):
      run_fit(tmp_path / "parts", stop_at=step)
  resumed = run_fit(tmp_path / "parts")
  chex.assert_trees_all_equal(resumed.state, expected.state)
  chex.assert_trees_all_equal(resumed.curve, expected.curve)


@pytest.mark.slow
def test_a_fit_continues_on_another_number_of_devices(tmp_path, use_devices, run_fit):
  use_devices(4)
  expected = run_fit(tmp_path / "whole")
  with pytest.raises(signals.Interrupted):
    run_fit(tmp_path / "parts", stop_at=7)
  use_devices(1)
  resumed = run_fit(tmp_path / "parts")
  chex.assert_trees_all_close(resumed.state, expected.state, rtol=2e-4, atol=2e-4)


def test_a_finished_fit_is_not_repeated(tmp_path, use_devices, run_fit):
  use_devices(1)
  expected = run_fit(tmp_path)
  # The seconds are equal as well: no step was taken.
  chex.assert_trees_all_equal(run_fit(tmp_path), expected)


def test_a_loss_that_is_not_finite_is_an_error_with_its_step(tmp_path, use_devices, run_fit):
  use_devices(2)
  # The first update overflows, so the second loss (step 1) is the first bad one.
  config = Fit(epochs=2, batch_size=8, learning_rate=3e38)
  with pytest.raises(UserError, match=r"loss of tiny, epoch 1 is not finite at step 1: lower"):
    run_fit(tmp_path, config=config)


def test_fewer_images_than_a_batch_is_an_error(tmp_path, use_devices, run_fit):
  use_devices(1)
  with pytest.raises(UserError, match="42 training images do not fill one batch of 64"):
    run_fit(tmp_path, config=Fit(batch_size=64))


@pytest.mark.slow
def test_training_starts_from_the_weights_of_a_file(run_fit, tmp_path, use_devices):
  use_devices(1)
  trained = run_fit(tmp_path / "first").state
  pretrained.save(sharding.fetch(trained.variables), tmp_path / "weights.npz")
  # A tiny learning rate leaves the initial weights.
  still = dataclasses.replace(CONFIG, learning_rate=1e-12, final_learning_rate=0.0, epochs=1)
  start = dataclasses.replace(still, start_from=str(tmp_path / "weights.npz"))
  found = run_fit(tmp_path / "second", config=start).state
  chex.assert_trees_all_close(found.params, trained.params, atol=1e-6)
  fresh = run_fit(tmp_path / "third", config=still).state
  assert np.abs(fresh.params["Dense_0"]["kernel"] - trained.params["Dense_0"]["kernel"]).max() > 0.1
