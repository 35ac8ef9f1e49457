"""Tests robust MI-UE: features collapse over what the input transformations leave."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import Tiny, noisy_dataset

from miue_jax import transforms
from miue_jax.methods import miue_robust
from miue_jax.settings.config import Model, Sgd

COUNT, CLASSES = 48, 3
SETTINGS = miue_robust.Settings(
  model=Model(name="tiny"),
  source=Sgd(batch_size=8, augment="none"),
  epochs=20,
  batch_size=16,
  steps=4,
  step_size_start=1.6 / 255,
  step_size_end=0.8 / 255,
  augment="none",
  transformations=("none", "grayscale"),
  checkpoint_every=100,
)
EPOCH = COUNT // 8 + COUNT // 16 * SETTINGS.steps


DATASET = noisy_dataset(COUNT, channels=3)


@pytest.fixture
def generate(runs):
  return runs(DATASET, SETTINGS)


def cohesion(state, images):
  """Returns the mean cosine of features inside a class minus that between classes."""
  features, _ = Tiny(Model(), CLASSES).apply(state.parts["source"].variables, images)
  unit = np.asarray(features / jnp.linalg.norm(features, axis=1, keepdims=True))
  labels = DATASET.train.labels
  cosines, same = unit @ unit.T, labels[:, None] == labels
  return cosines[same].mean() - cosines[~same].mean()


@pytest.mark.long
def test_features_collapse_in_gray_as_well(generate):
  gained = {}
  for name in ("miue", "miue_robust"):
    made, state = generate(name, name)
    poisoned = jnp.array(DATASET.train.images[:] + made.delta, jnp.float32) / 255
    gained[name] = cohesion(state, poisoned), cohesion(state, transforms.grayscale(poisoned))
  plain, robust = gained["miue"], gained["miue_robust"]
  assert min(plain[0], robust[0], robust[1]) > 0.8
  assert robust[1] > plain[1] + 0.3


@pytest.mark.long
def test_without_a_transformation_it_is_miue(generate):
  plain, _ = generate("plain", "miue", epochs=2)
  same, _ = generate("same", transformations=("none",), epochs=2)
  assert same.delta.tobytes() == plain.delta.tobytes()
  other, _ = generate("other", transformations=("grayscale",), epochs=2)
  assert other.delta.tobytes() != plain.delta.tobytes()


@pytest.mark.long
@pytest.mark.parametrize("augment_poisoned", [False, True])
def test_both_sides_see_transformed_images(generate, augment_poisoned):
  # No delta step sees colour, so that all channels move by the same sign: the weights of luma are
  # positive.
  made, _ = generate(
    transformations=("grayscale",),
    epochs=1,
    augment_poisoned=augment_poisoned,
    step_size_start=1 / 255,
  )
  inside = (DATASET.train.images[:] > 20) & (DATASET.train.images[:] < 235)
  inside = inside.all(axis=-1)
  assert (np.ptp(made.delta, axis=-1)[inside] == 0).all()
  assert np.abs(made.delta).max() >= 2


@pytest.mark.long
def test_the_draws_do_not_depend_on_the_number_of_devices(generate):
  settings = {"transformations": ("none", "grayscale", "jpeg50"), "epochs": 1}
  one, _ = generate("one", devices=1, **settings)
  four, _ = generate("four", devices=4, **settings)
  # Sums in another order only change the signs of gradients near 0.
  assert np.mean(one.delta == four.delta) > 0.98
  assert one.history["objective"] == pytest.approx(four.history["objective"], rel=1e-3)
