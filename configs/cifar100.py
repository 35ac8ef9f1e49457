"""CIFAR-100 by the recipe of the paper (Zhu et al., ICLR 2026), which is the default.

Published clean test accuracy of a ResNet-18: 76.65 % clean, 1.17 % MI-UE.
Images: tensorflow-datasets, prepared once (`pip install -e '.[prepare]'`).
Hardware: one GPU or TPU chip; 1,100 dataset passes of ResNet-18, as many as configs/cifar10.py.

    python -m miue_jax.main --config=configs/cifar100.py
"""

import common
import ml_collections


def get_config(method: str = "miue") -> ml_collections.ConfigDict:
  """Returns the recipe, with the settings of a method."""
  c = common.recipe("cifar100", method)
  c.seed = 7
  c.data.source = "tfds"
  c.data.name = "cifar100"
  return c
