"""A 100-class subset of ImageNet at 224x224 from a folder, by the paper's recipe.

Published clean test accuracy of a ResNet-18: 80.43 % clean, 1.03 % MI-UE. The pictures are in
`train/<class>/` and `test/<class>/`; from a folder of all of ImageNet, `data.classes` selects the
100 classes. Hardware: several accelerators of 80 GB, because 19 GB of images and 38 GB of int16
perturbations are divided among the devices, and 120 times the arithmetic of configs/cifar10.py,
because the stem of the source model has no stride; `--mode=plan` estimates the hours by chip.

    python -m miue_jax.main --config=configs/imagenet100.py --config.data.path=DIR
"""

import common
import ml_collections


def get_config(method: str = "miue") -> ml_collections.ConfigDict:
  """Returns the recipe, with the settings of a method."""
  c = common.recipe("imagenet100", method)
  c.data.source = "folder"
  c.data.size = 224
  common.adjust(c.method, {"model": {"dtype": "bfloat16"}})
  c.victim.stem = "imagenet"
  c.victim.dtype = "bfloat16"
  return c
