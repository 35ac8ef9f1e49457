"""Fashion-MNIST (28x28, gray), 10,000 images of it, sized for two CPU cores.

The paper has no Fashion-MNIST and this recipe has not been run in full; expect about 85 % clean
and, from the time of configs/npz.py, half an hour.
Images: tensorflow-datasets, prepared once (`pip install 'miue-jax[prepare]'`).

    python -m miue_jax.main --config=configs/fashion_mnist.py
"""

import ml_collections

from miue_jax.settings import config


def get_config() -> ml_collections.ConfigDict:
  """Returns the recipe."""
  c = config.default()
  c.name = "fashion_mnist"
  c.data.source = "tfds"
  c.data.name = "fashion_mnist"
  c.data.max_train = 10_000
  c.data.max_test = 2_000

  c.model.name = c.victim.name = "small_cnn"
  c.model.width = c.victim.width = 16
  c.source.augment = "crop_flip"
  c.method.epochs = 8
  c.method.batch_size = 256
  c.method.step_size_start = 1 / 255
  c.method.step_size_end = 1 / 255
  c.method.augment = "crop_flip"
  c.method.augment_poisoned = True
  c.method.checkpoint_every = 1

  c.victim_fit.epochs = 15
  c.victim_fit.learning_rate = 0.1
  return c
