"""A dataset and a poison that linear victims learn within a second."""

import numpy as np

from miue_jax.artefact.poison import Poison
from miue_jax.data.dataset import Dataset, Split
from miue_jax.settings.config import Config, Evaluate, Fit, Method, Model

CONFIG = Config(
  method=Method(epsilon=16 / 255),
  victim=Model(name="linear", normalise="none"),
  victim_fit=Fit(epochs=3, batch_size=8, learning_rate=0.1, augment="none"),
  evaluate=Evaluate(conditions=("clean", "poison"), seeds=(5, 6)),
)


def make_dataset():
  """Two classes that a linear model tells apart: bright on the left, bright on the right."""
  rng = np.random.default_rng(0)
  labels = np.arange(48, dtype=np.int32) % 2
  images = rng.integers(0, 100, (48, 4, 4, 1), np.uint8)
  images[labels == 0, :, :2] += 100
  images[labels == 1, :, 2:] += 100
  train, test = Split(images[:32], labels[:32]), Split(images[32:], labels[32:])
  return Dataset("sides", train, test, ("left", "right"))


def make_poison(dataset):
  delta = np.where(dataset.train.labels == 0, 16, -16).astype(np.int8).reshape(-1, 1, 1, 1)
  clean = dataset.train.images[:].astype(int)
  delta = (np.clip(clean + delta, 0, 255) - clean).astype(np.int8)
  return Poison.make(
    dataset, delta, method="miue", epsilon=16 / 255, config={}, seed=0, seconds=1.0
  )
