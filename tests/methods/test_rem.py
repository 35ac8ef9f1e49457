"""Tests REM and SEM: noise that stays easy to fit when images move inside a smaller ball."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SEED, Tiny, noisy_dataset

from miue_jax.machine import signals
from miue_jax.methods import METHODS, rem
from miue_jax.settings.config import Model, Sgd

pytestmark = pytest.mark.usefixtures("quick_compiler")

COUNT, CLASSES, BATCH = 44, 3, 16
SETTINGS = rem.Settings(
  model=Model(name="tiny"),
  source=Sgd(batch_size=4, augment="none"),
  epochs=16,
  batch_size=BATCH,
  steps=5,
  step_size_start=3.2 / 255,
  step_size_end=3.2 / 255,
  inner_epsilon=6 / 255,
  inner_steps=3,
  inner_step_size=3.6 / 255,
  augment="none",
  draws=1,
  checkpoint_every=100,
)
AUGMENTED = {"augment": "flip", "draws": 2, "epochs": 2}
SOURCE_STEPS = COUNT // 4
EPOCH = SOURCE_STEPS + -(-COUNT // BATCH) * SETTINGS.steps


DATASET = noisy_dataset(COUNT)
LABELS = DATASET.train.labels


@pytest.fixture
def generate(runs):
  return runs(DATASET, SETTINGS)


def worst_accuracy(state, images, radius):
  """Returns the percentage of uint8 images that stay right within `radius` (255ths).

  The adversary takes small steps on the margins.
  """
  start = jnp.array(images, jnp.float32)
  rows = np.arange(COUNT)

  def margins(x):
    _, logits = Tiny(Model(), CLASSES).apply(state.parts["source"].variables, x / 255)
    others = logits.at[rows, LABELS].set(-jnp.inf)
    return logits[rows, LABELS] - others.max(axis=1)

  slope = jax.jit(jax.grad(lambda x: margins(x).sum()))
  x, lowest = start, margins(start)
  for _ in range(40):
    x = jnp.clip(x - radius / 10 * jnp.sign(slope(x)), start - radius, start + radius)
    lowest = jnp.minimum(lowest, margins(x))
  return 100 * float(np.mean(lowest > 0))


@pytest.mark.long
def test_the_poison_stays_easy_within_the_inner_radius(generate):
  robust = {}
  for name in ("em", "rem", "sem"):
    made, state = generate(name, name)
    poisoned = DATASET.train.images[:] + made.delta
    assert worst_accuracy(state, poisoned, 0) == 100
    robust[name] = worst_accuracy(state, poisoned, 6)
  assert min(robust["rem"], robust["sem"]) >= 88
  assert robust["em"] < min(robust["rem"], robust["sem"]) - 5


@pytest.mark.long
@pytest.mark.parametrize("name", ["rem", "sem"])
def test_the_source_model_is_trained_adversarially(generate, name):
  attacked, _ = generate("attacked", name, epochs=1)
  spared, _ = generate("spared", name, epochs=1, inner_epsilon=0.0)
  assert attacked.history["source_loss"][0] > 1.05 * spared.history["source_loss"][0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rem", "sem"])
def test_every_pass_starts_from_new_noise(generate, name):
  made, _ = generate(name=name, epochs=2, step_size_start=1e-9, step_size_end=1e-9)
  noise = np.random.default_rng((SEED, 2)).random((COUNT, 8, 8, 1), np.float32)
  assert np.abs(made.delta - 8 * (2 * noise - 1)).max() <= 0.51


def test_sem_moves_images_at_random_and_never_asks_the_model():
  def unasked(images):
    raise AssertionError("the model was asked")

  images = jnp.full((4, 8, 8, 1), 0.5)
  keys = jax.random.split(jax.random.key(0), 4)
  moved = METHODS["sem"].delta_adversary(SETTINGS)(keys, images, unasked)
  assert 5.5 < 255 * np.abs(moved - images).max() <= 6.001
  with pytest.raises(AssertionError, match="asked"):
    METHODS["sem"].source_adversary(SETTINGS)(keys, images, unasked)
  with pytest.raises(AssertionError, match="asked"):
    METHODS["rem"].delta_adversary(SETTINGS)(keys, images, unasked)


@pytest.mark.long
def test_an_interrupted_run_ends_in_the_same_bytes(generate):
  expected, _ = generate("whole", "rem", **AUGMENTED)
  for step in (2, SOURCE_STEPS, EPOCH + SOURCE_STEPS + 3):
    with pytest.raises(signals.Interrupted, match="SIGTERM"):
      generate("parts", "rem", stop_at=step, **AUGMENTED)
  resumed, _ = generate("parts", "rem", **AUGMENTED)
  assert resumed.delta.tobytes() == expected.delta.tobytes()
  assert resumed.history == expected.history


@pytest.mark.long
@pytest.mark.parametrize("name", ["rem", "sem"])
def test_the_number_of_devices_does_not_matter(generate, name):
  # One epoch only: later, gradients near 0 have signs that depend on the last bit.
  changes = AUGMENTED | {"epochs": 1}
  (one, _), (four, _) = (generate(str(n), name, devices=n, **changes) for n in (1, 4))
  np.testing.assert_allclose(four.history["source_loss"], one.history["source_loss"], rtol=1e-3)
  np.testing.assert_allclose(four.history["objective"], one.history["objective"], rtol=1e-4)
  assert np.mean(four.delta == one.delta) >= 0.97
