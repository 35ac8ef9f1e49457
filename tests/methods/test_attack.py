"""AP: what a source model trained on clean images sees in the poison."""

import numpy as np
import pytest
from tiny import Tiny

from miue_jax import budget
from miue_jax.data.dataset import Dataset, Split
from miue_jax.machine import signals
from miue_jax.methods import ap
from miue_jax.settings.config import Config, Method, Model, Sgd
from miue_jax.settings.errors import UserError
from miue_jax.train import lanes

COUNT, CLASSES, BATCH = 44, 3, 16
CONFIG = Config(
  seed=5,
  model=Model(name="tiny"),
  source=Sgd(batch_size=8, augment="flip"),
  method=Method(
    name="ap",
    epochs=8,
    batch_size=BATCH,
    steps=8,
    step_size_start=3 / 255,
    augment="flip",
    augment_poisoned=True,
    init="random",
    checkpoint_every=1,
  ),
)
TRAINING = CONFIG.method.epochs * (COUNT // 8)
BATCHES = -(-COUNT // BATCH)
RESTART = BATCHES * (CONFIG.method.steps + 1)


def make_dataset():
  rng = np.random.default_rng(0)
  labels = rng.permutation(np.arange(COUNT, dtype=np.int32) % CLASSES)
  # Classes differ in brightness by a few levels in each pixel: learnt at once, and close enough
  # for 8 levels to carry an image to another class.
  centres = 128 + 5 * rng.choice([-1, 1], (CLASSES, 8, 8, 1))
  images = (centres[labels] + rng.normal(0, 4, (COUNT, 8, 8, 1))).astype(np.uint8)
  return Dataset("tiny", Split(images, labels), None, ("a", "b", "c"))


DATASET = make_dataset()
LABELS = DATASET.train.labels


@pytest.fixture
def generate(runs):
  return runs(DATASET, CONFIG)


def predictions(state, images):
  """Classes that the source model of a state sees in uint8 images."""
  _, logits = Tiny(Model(), CLASSES).apply(state.source.variables, images.astype(np.float32) / 255)
  return np.argmax(logits, axis=1)


def test_the_source_sees_the_next_class_in_the_poisoned_image(generate):
  made, state = generate()
  clean = DATASET.train.images
  assert np.mean(predictions(state, clean) == LABELS) >= 0.95
  assert np.mean(predictions(state, clean + made.delta) == (LABELS + 1) % CLASSES) >= 0.95


def test_the_source_errs_on_error_maximising_images(generate):
  made, state = generate(name="ap_max")
  assert np.mean(predictions(state, DATASET.train.images) == LABELS) >= 0.95
  assert np.mean(predictions(state, DATASET.train.images + made.delta) == LABELS) <= 0.05


def test_objectives_are_cross_entropies():
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(0, 3, (9, 4)).astype(np.float32), rng.integers(0, 4, 9)
  exact = logits.astype(np.float64)
  entropies = np.log(np.exp(exact).sum(axis=1))[:, None] - exact
  rows = np.arange(9)
  found = ap.targeted(Method())(None, logits, labels, np.ones(9))
  assert found == pytest.approx(entropies[rows, (labels + 1) % 4], rel=1e-5)
  found = ap.maximising(Method())(None, logits, labels, np.ones(9))
  assert found == pytest.approx(-entropies[rows, labels], rel=1e-5)


def test_every_image_keeps_its_best_restart(generate):
  # One small step from noise: chance decides which restart is best for an image.
  settings = {"steps": 1, "step_size_start": 1 / 255, "augment": "none"}
  states = [generate(str(n), restarts=n, **settings)[1] for n in (1, 3)]
  real = lanes.lay_out(COUNT, (8, BATCH), CONFIG.seed).ids
  filled = real >= 0
  fewer, more = states
  assert (more.lowest <= fewer.lowest)[filled].all()
  assert (more.lowest < fewer.lowest)[filled].any()
  ids = real[filled]
  delta = budget.unpack(more.best[filled], budget.resolution(8 / 255))
  poisoned = DATASET.train.images[ids].astype(np.float32) / 255 + delta
  _, logits = Tiny(Model(), CLASSES).apply(more.source.variables, poisoned)
  losses = ap.targeted(Method())(None, logits, LABELS[ids], None)
  np.testing.assert_allclose(more.lowest[filled], losses, rtol=1e-4, atol=1e-6)


def test_the_source_learns_from_clean_images(generate):
  small, large = (generate(str(s), epsilon=s / 255)[0] for s in (1, 8))
  for name in ("source_loss", "source_accuracy"):
    assert small.history[name] == large.history[name]
    assert len(small.history[name]) == 8
  assert small.history["objective"] != large.history["objective"]


@pytest.mark.parametrize("changes", [{"epsilon": 2 / 255}, {"fraction": 0.5}, {"only_class": 1}])
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
  TRAINING + BATCHES * CONFIG.method.steps,
  TRAINING + RESTART,
  TRAINING + RESTART + 7,
)


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


def test_the_number_of_devices_does_not_matter(generate):
  (one, _), (four, _) = (generate(str(n), devices=n, restarts=2) for n in (1, 4))
  np.testing.assert_allclose(four.history["source_loss"], one.history["source_loss"], rtol=1e-3)
  assert np.mean(four.delta == one.delta) >= 0.98


def test_one_pattern_for_a_class_is_refused(generate):
  with pytest.raises(UserError, match=r"ap makes one perturbation .* method\.class_wise=False"):
    generate(class_wise=True)


def test_a_budget_that_signs_cannot_keep_is_refused(generate):
  with pytest.raises(UserError, match=r"set method\.norm=linf"):
    generate(norm="l2")
