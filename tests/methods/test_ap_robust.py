"""Tests robust AP: source model and attack see transformed images."""

import numpy as np
import pytest
from tiny import noisy_dataset

from miue_jax.methods import ap_robust
from miue_jax.settings.config import Model, Sgd

COUNT = 48
SETTINGS = ap_robust.Settings(
  model=Model(name="tiny"),
  source=Sgd(batch_size=8, augment="none"),
  epochs=2,
  batch_size=16,
  steps=4,
  step_size=1 / 255,
  init="zeros",
  augment="none",
  checkpoint_every=100,
)
DATASET = noisy_dataset(COUNT, channels=3)


@pytest.fixture
def generate(runs):
  return runs(DATASET, SETTINGS)


@pytest.mark.slow
def test_without_a_transformation_it_is_ap(generate):
  plain, _ = generate("plain", "ap")
  same, _ = generate("same", transformations=("none",))
  assert same.delta.tobytes() == plain.delta.tobytes()
  assert same.history == plain.history
  other, _ = generate("other", transformations=("grayscale",))
  assert other.delta.tobytes() != plain.delta.tobytes()
  assert other.history["source_loss"] != plain.history["source_loss"]
  # No step sees colour. The weights of luma are positive, so that all channels move by one sign.
  inside = ((DATASET.train.images[:] > 20) & (DATASET.train.images[:] < 235)).all(axis=-1)
  assert (np.ptp(other.delta, axis=-1)[inside] == 0).all()
  assert np.abs(other.delta).max() >= 2
