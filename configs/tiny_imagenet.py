"""Tiny ImageNet (200 classes, 64x64) from a folder, by the paper's recipe.

The paper does not use this dataset; a clean ResNet-18 reaches about 60 %. Arrange the download as
`train/<class>/...JPEG` and `test/<class>/...JPEG` (a text file of the download has the labels of
its validation images). Hardware: one GPU, eight times as long as configs/cifar10.py: a step costs
four times as much, and an epoch has twice the images.

    python -m miue_jax.main --config=configs/tiny_imagenet.py --config.data.path=DIR
"""

import common
import ml_collections


def get_config(method: str = "miue") -> ml_collections.ConfigDict:
  """Returns the recipe, with the settings of a method."""
  c = common.recipe("tiny_imagenet", method)
  c.data.source = "folder"
  c.data.size = 64
  common.adjust(c.method, {"model": {"dtype": "bfloat16"}})
  c.victim.stem = "imagenet"  # the usual victim for 64x64 pixels and more
  c.victim.dtype = "bfloat16"
  return c
