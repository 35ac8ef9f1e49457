"""Tests the loop of adversarial poisons: what the source model sees in them, and restarts."""

import numpy as np
import pytest
from tiny import SEED, Tiny

from miue_jax.data.dataset import Dataset, Split
from miue_jax.machine import signals
from miue_jax.methods import ap
from miue_jax.settings.config import Model, Sgd
from miue_jax.settings.errors import UserError
from miue_jax.train import lanes

COUNT, CLASSES, BATCH = 44, 3, 16
SETTINGS = ap.Settings(
  model=Model(name="tiny"),
  source=Sgd(batch_size=8, augment="flip"),
  epochs=8,
  batch_size=BATCH,
  steps=8,
  step_size=3 / 255,
  restarts=1,
  augment="flip",
  checkpoint_every=1,
)
TRAINING = SETTINGS.epochs * (COUNT // 8)
BATCHES = -(-COUNT // BATCH)
RESTART = BATCHES * (SETTINGS.steps + 1)


def make_dataset():
  rng = np.random.default_rng(0)
  labels = rng.permutation(np.arange(COUNT, dtype=np.int32) % CLASSES)
  # Classes differ by a few levels in each pixel: they are learnt at once, and 8 levels suffice to
  # move an image to another class.
  centres = 128 + 5 * rng.choice([-1, 1], (CLASSES, 8, 8, 1))
  images = (centres[labels] + rng.normal(0, 4, (COUNT, 8, 8, 1))).astype(np.uint8)
  return Dataset("tiny", Split(images, labels), None, ("a", "b", "c"))


DATASET = make_dataset()
LABELS = DATASET.train.labels


@pytest.fixture
def generate(runs):
  return runs(DATASET, SETTINGS)


def predictions(state, images):
  """Returns the classes that the source model of a state predicts for uint8 images."""
  _, logits = Tiny(Model(), CLASSES).apply(
    state.parts["source"].variables, np.asarray(images, np.float32) / 255
  )
  return np.argmax(logits, axis=1)


@pytest.mark.long
def test_the_source_sees_the_next_class_in_the_poisoned_image(generate):
  made, state = generate()
  clean = DATASET.train.images[:]
  assert np.mean(predictions(state, clean) == LABELS) >= 0.95
  assert np.mean(predictions(state, clean + made.delta) == (LABELS + 1) % CLASSES) >= 0.95


@pytest.mark.long
def test_the_source_errs_on_error_maximising_images(generate):
  made, state = generate(name="ap_max")
  assert np.mean(predictions(state, DATASET.train.images) == LABELS) >= 0.95
  assert np.mean(predictions(state, DATASET.train.images[:] + made.delta) == LABELS) <= 0.05


def test_objectives_are_cross_entropies():
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(0, 3, (9, 4)).astype(np.float32), rng.integers(0, 4, 9)
  exact = logits.astype(np.float64)
  entropies = np.log(np.exp(exact).sum(axis=1))[:, None] - exact
  rows = np.arange(9)
  found = ap.targeted(None, logits, labels, np.ones(9), SETTINGS)
  assert found == pytest.approx(entropies[rows, (labels + 1) % 4], rel=1e-5)
  found = ap.maximising(None, logits, labels, np.ones(9), SETTINGS)
  assert found == pytest.approx(-entropies[rows, labels], rel=1e-5)


@pytest.mark.long
def test_every_image_keeps_its_best_restart(generate):
  # After one small step from noise, chance decides which restart is best for an image.
  settings = {"steps": 1, "step_size": 1 / 255, "augment": "none"}
  states = [generate(str(n), restarts=n, **settings)[1] for n in (1, 3)]
  real = lanes.lay_out(COUNT, (8, BATCH), SEED).ids
  filled = real >= 0
  fewer, more = (state.parts for state in states)
  assert (more["lowest"] <= fewer["lowest"])[filled].all()
  assert (more["lowest"] < fewer["lowest"])[filled].any()
  ids = real[filled]
  delta = more["best"].rows(filled, None)
  poisoned = DATASET.train.images[ids].astype(np.float32) / 255 + delta
  _, logits = Tiny(Model(), CLASSES).apply(more["source"].variables, poisoned)
  losses = ap.targeted(None, logits, LABELS[ids], None, SETTINGS)
  np.testing.assert_allclose(more["lowest"][filled], losses, rtol=1e-4, atol=1e-6)


@pytest.mark.long
def test_the_source_learns_from_clean_images(generate):
  small, large = (generate(str(s), epsilon=s / 255)[0] for s in (1, 8))
  for name in ("source_loss", "source_accuracy"):
    assert small.history[name] == large.history[name]
    assert len(small.history[name]) == 8
  assert small.history["objective"] != large.history["objective"]


@pytest.mark.parametrize("changes", [{"epsilon": 2 / 255}, {"fraction": 0.5}, {"only_class": 1}])
@pytest.mark.long
def test_the_budget_and_the_choice_of_images_are_kept(generate, changes):
  made, _ = generate(**changes)
  assert np.abs(made.delta).max() == round(255 * changes.get("epsilon", 8 / 255))
  changed = np.flatnonzero(made.delta.any(axis=(1, 2, 3)))
  chosen = np.arange(COUNT) if made.perturbed is None else made.perturbed
  np.testing.assert_array_equal(changed, chosen)
  assert len(changed) == {"epsilon": COUNT, "fraction": COUNT // 2}.get(*changes, 15)


STOPS = (
  1,
  TRAINING // 8,
  TRAINING,
  TRAINING + 5,
  TRAINING + BATCHES * SETTINGS.steps,
  TRAINING + RESTART,
  TRAINING + RESTART + 7,
)


@pytest.mark.long
def test_an_interrupted_run_ends_in_the_same_bytes(generate):
  expected, _ = generate("whole", restarts=2)
  for step in STOPS:
    with pytest.raises(signals.Interrupted, match="SIGTERM"):
      generate("parts", restarts=2, stop_at=step)
  resumed, _ = generate("parts", restarts=2)
  assert resumed.delta.tobytes() == expected.delta.tobytes()
  assert resumed.history == expected.history
  again, _ = generate("parts", restarts=2)
  assert again.delta.tobytes() == expected.delta.tobytes()


@pytest.mark.long
def test_the_number_of_devices_does_not_matter(generate):
  (one, _), (four, _) = (generate(str(n), devices=n, restarts=2) for n in (1, 4))
  np.testing.assert_allclose(four.history["source_loss"], one.history["source_loss"], rtol=1e-3)
  assert np.mean(four.delta == one.delta) >= 0.98


@pytest.mark.parametrize("changes", [{"class_wise": True}, {"norm": "l2"}])
def test_settings_that_it_cannot_keep_are_refused(generate, changes):
  with pytest.raises(UserError, match=f"Unknown setting {next(iter(changes))}"):
    generate(**changes)
