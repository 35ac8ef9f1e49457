"""SVHN (cropped digits) by the recipe of the paper, with crops instead of flips.

The paper does not use this dataset; expected are about 95 % clean. Mirrored digits would be wrong,
so nothing is flipped. Images: tensorflow-datasets, prepared once
(`pip install -e '.[prepare]'`). Hardware: one GPU or TPU chip, 73,257 / 50,000 of the time of
configs/cifar10.py.

    python -m miue_jax.main --config=configs/svhn.py
"""

import common
import ml_collections


def get_config(method: str = "miue") -> ml_collections.ConfigDict:
  """Returns the recipe, with the settings of a method."""
  c = common.recipe("svhn", method)
  c.data.source = "tfds"
  c.data.name = "svhn_cropped"
  crops = {"source": {"augment": "crop"}, "augment": "crop", "augment_poisoned": True}
  common.adjust(c.method, crops)
  c.victim_fit.augment = "crop"
  c.victim_fit.learning_rate = 0.1
  return c
