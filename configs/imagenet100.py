"""A 100-class subset of ImageNet at 224x224 from a folder, by the paper's recipe.

Published clean test accuracy of a ResNet-18: 80.43 % clean, 1.03 % MI-UE. `train/<class>/` and
`test/<class>/` hold the classes; or name the 100 classes in `data.classes` and point at all of
ImageNet. Hardware: 19 GB of images and 38 GB of int16 perturbation are spread over the devices, and
the source model has no stride in its stem: several accelerators, 80 GB each, and 120 times the
arithmetic of configs/cifar10.py; `--mode=plan` says how long that takes on which chip.

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
