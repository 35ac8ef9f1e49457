"""SVHN (cropped digits) by the paper's recipe, with crops in place of flips: a mirrored 2 is no 2.

The paper has no SVHN; expect about 95 % clean. Images: tensorflow-datasets, prepared once
(`pip install 'miue-jax[prepare]'`). Hardware: one GPU or TPU chip, time as for configs/cifar10.py
times 73,257 / 50,000.

    python -m miue_jax.main --config=configs/svhn.py
"""

import ml_collections

from miue_jax.settings import config


def get_config() -> ml_collections.ConfigDict:
  """Returns the recipe."""
  c = config.default()
  c.name = "svhn"
  c.data.source = "tfds"
  c.data.name = "svhn_cropped"
  c.source.augment = "crop"
  c.method.augment = "crop"
  c.method.augment_poisoned = True
  c.victim_fit.augment = "crop"
  c.victim_fit.learning_rate = 0.1
  return c
