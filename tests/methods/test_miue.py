"""Tests MI-UE against sign steps on the paper's formula in float64, on any number of devices."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest
from tiny import central_differences

from miue_jax import models
from miue_jax.data.dataset import Dataset, Split
from miue_jax.machine import prng
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.methods import METHODS, miue
from miue_jax.models import layers
from miue_jax.settings.config import Model, Sgd
from miue_jax.train import lanes
from miue_jax.transforms import augment

pytestmark = pytest.mark.usefixtures("quick_compiler")

COUNT, BATCH, CLASSES, SEED = 22, 16, 3, 5
SHAPE = (4, 4, 1)
SETTINGS = miue.Settings(
  model=Model(name="pixels"),
  source=Sgd(batch_size=8),
  epsilon=4 / 255,
  epochs=2,
  batch_size=BATCH,
  steps=2,
  step_size_start=1.9 / 255,
  step_size_end=1.3 / 255,
  zeta=0.5,
  augment="none",
)
VARIANTS = {
  "as published": {"augment": "flip"},
  "no similarity, balanced": {"similarity_weight": 0.0, "balanced": True},
  "half of the images, large steps": {"fraction": 0.5, "step_size_start": 9 / 255},
  "one class": {"only_class": 1},
  "no distance, augmented after": {
    "zeta": 0.0,
    "tau": 0.5,
    "augment": "flip",
    "augment_poisoned": True,
    "draws": 2,
  },
  "class-wise, balanced, augmented after": {
    "class_wise": True,
    "balanced": True,
    "augment": "flip",
    "augment_poisoned": True,
  },
}


class Tiny(nn.Module):
  """A network with one hidden layer and batch norm, which compiles quickly."""

  model: Model
  num_classes: int
  min_side = 1

  @nn.compact
  def __call__(self, images, train=False):
    hidden = nn.Dense(8)(images.reshape(len(images), -1))
    features = nn.relu(layers.batch_norm(train, "float32")(hidden))
    return features, layers.classifier(self.num_classes)(features)


class Pixels(nn.Module):
  """A network whose features are the pixels: training does not change the objective."""

  model: Model
  num_classes: int
  min_side = 1

  @nn.compact
  def __call__(self, images, train=False):
    features = images.reshape(len(images), -1)
    return features, nn.Dense(self.num_classes)(features)


def make_dataset(low=30, high=226, shape=SHAPE):
  """Returns random images away from black and white, where clipping has kinks; uneven classes."""
  rng = np.random.default_rng(0)
  labels = np.minimum(np.arange(COUNT) // 6, CLASSES - 1).astype(np.int32)
  images = rng.integers(low, high, (COUNT, *shape), np.uint8)
  return Dataset("tiny", Split(images, labels), None, ("a", "b", "c"))


def settings_with(**changes):
  return dataclasses.replace(SETTINGS, **changes)


@pytest.fixture
def generate(tmp_path, use_devices, monkeypatch, reporter):
  monkeypatch.setitem(models.MODELS, "pixels", Pixels)
  monkeypatch.setitem(models.MODELS, "tiny", Tiny)

  def run(devices, settings, dataset):
    use_devices(devices)
    states = Checkpoints(tmp_path / str(devices))
    return METHODS["miue"].generate(dataset, settings, SEED, states, reporter())

  return run


def l_mi(z, labels, weights, method):
  """Returns the weighted mean of L_sim + zeta L_dist of a batch, as in the paper."""
  unit = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-6)
  terms = weights * np.exp(unit @ unit.T / method.tau)
  lengths = weights * np.linalg.norm(z[:, None] - z, axis=2)
  same = labels[:, None] == labels
  similarity = -np.log((same * terms).sum(1) / terms.sum(1))
  distance = np.log(1 + (same * lengths).sum(1) / z.shape[1])
  rowwise = method.similarity_weight * similarity + method.zeta * distance
  return (weights * rowwise).sum() / weights.sum()


def transform(kind, key, ids):
  """Returns the augmentation of these examples as a function on float64 `[batch, H, W, C]`."""
  keys = prng.example_keys(key, ids)
  index = np.arange(1, np.prod(SHAPE) + 1, dtype=np.float32).reshape(1, *SHAPE)
  # Augmentation only moves pixels and fills with zeros; `source` is where each pixel came from.
  source = np.asarray(augment(kind, keys, np.repeat(index, len(ids), axis=0))).astype(int)
  rows = np.arange(len(ids)).reshape(-1, 1, 1, 1)

  def moved(x):
    return np.where(source > 0, x.reshape(len(x), -1)[rows, source - 1], 0.0)

  return moved


def sign_steps(dataset, method, chosen):
  """The delta pass of Algorithm 1 in NumPy; returns levels `[N, H, W, C]` and mean objectives."""
  images, labels = dataset.train.images[:] / 255, dataset.train.labels
  layout = lanes.lay_out(COUNT, (8, BATCH), SEED)
  delta = np.zeros((CLASSES if method.class_wise else COUNT, *SHAPE))
  objectives = []
  for epoch in range(1, method.epochs + 1):
    left = (method.epochs - epoch + 1) / method.epochs
    alpha = left * (method.step_size_start - method.step_size_end) + method.step_size_end
    key = prng.stream(SEED, "delta", epoch)
    order = np.asarray(lanes.shuffle(key, layout.ids, BATCH)).T
    values = []
    for index in range(-(-COUNT // BATCH) * method.steps):
      ids = layout.ids[order[index // method.steps]]
      ids = ids[ids != lanes.EMPTY]
      ids = ids[chosen[ids]]
      x, y = images[ids], labels[ids]
      weights = 1 / np.bincount(y)[y] if method.balanced else np.ones(len(ids))
      weights = weights * len(ids) / weights.sum()
      if method.augment_poisoned:
        draws = [index * method.draws + draw for draw in range(method.draws)]
        views = [transform(method.augment, jax.random.fold_in(key, draw), ids) for draw in draws]
      else:
        x, views = transform(method.augment, key, ids)(x), [lambda poisoned: poisoned]

      def objective(table, x=x, y=y, weights=weights, views=views):
        poisoned = np.clip(x + table[y], 0, 1) if method.class_wise else x + table
        losses = [l_mi(view(poisoned).reshape(len(y), -1), y, weights, method) for view in views]
        return np.mean(losses)

      table = delta if method.class_wise else delta[ids]
      values.append(objective(table))
      table = table - alpha * np.sign(np.round(central_differences(objective, table, 1e-5), 9))
      table = np.clip(table, -method.epsilon, method.epsilon)
      if method.class_wise:
        delta = table
      else:
        delta[ids] = np.clip(x + table, 0, 1) - x
    objectives.append(np.mean(values))
  delta = (delta[labels] if method.class_wise else delta) * chosen[:, None, None, None]
  poisoned = np.clip(np.rint(255 * (images + delta)), 0, 255)
  limit = round(255 * method.epsilon)
  return np.clip(poisoned - dataset.train.images[:], -limit, limit), objectives


_SLOW = (
  "no similarity, balanced",
  "no distance, augmented after",
  "one class",
  "class-wise, balanced, augmented after",
)


@pytest.mark.parametrize(
  "name", [pytest.param(n, marks=[pytest.mark.slow] if n in _SLOW else []) for n in VARIANTS]
)
def test_generation_is_sign_steps_on_the_formula(name, generate):
  settings, dataset = settings_with(**VARIANTS[name]), make_dataset()
  # Two devices for one half of the variants, four for the other; the batch is the global one.
  made = generate((2, 4)[list(VARIANTS).index(name) % 2], settings, dataset)
  chosen = np.ones(COUNT, bool)
  if made.perturbed is not None:
    chosen = np.isin(np.arange(COUNT), made.perturbed)
  expected, objectives = sign_steps(dataset, settings, chosen)
  # Only a gradient that is 0 in float32 may step the other way.
  assert np.mean(made.delta == expected) >= 0.995
  np.testing.assert_allclose(made.history["objective"], objectives, rtol=1e-3)
  assert np.abs(made.delta).max() == 4


def test_objective_of_one_batch_is_the_formula_of_the_clean_images(generate):
  dataset = make_dataset()
  whole = dataclasses.replace(
    dataset, train=Split(dataset.train.images[:16], dataset.train.labels[:16])
  )
  made = generate(4, settings_with(epochs=1, steps=1), whole)
  pixels = whole.train.images[:].reshape(16, -1) / 255
  expected = l_mi(pixels, whole.train.labels, np.ones(16), SETTINGS)
  assert made.history["objective"][0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
  ("network", "kind"),
  [("tiny", "flip"), pytest.param("small_cnn", "crop_flip", marks=pytest.mark.long)],
)
def test_the_number_of_devices_does_not_matter(network, kind, generate):
  # A network that trains, with batch norm over the global batch.
  dataset = make_dataset(0, 256, (8, 8, 3))
  model = Model(name=network, width=4)
  settings = settings_with(model=model, steps=3, augment=kind, augment_poisoned=True)
  one, *others = (generate(devices, settings, dataset) for devices in (1, 2, 4, 8))
  for several in others:
    # The first source pass has seen no delta yet: it differs only by the order of summation.
    assert several.history["source_loss"][0] == pytest.approx(one.history["source_loss"][0], 1e-5)
    assert several.history["objective"][0] == pytest.approx(one.history["objective"][0], 1e-4)
    for name in one.history:
      np.testing.assert_allclose(several.history[name], one.history[name], rtol=2e-3)
    # The sign of a gradient near 0 depends on the last bit; a wrong factor, or a batch that is not
    # global, would change many signs.
    assert np.mean(several.delta == one.delta) >= 0.99
  assert np.mean(np.abs(one.delta)) > 1
