"""Provides transformations of images, one of each for attacks and for victims.

Float images are `[batch, height, width, channel]` in [0, 1] and are transformed inside a step, with
one random key per image (`jax.random.split(key, len(images))`), so that results do not depend on
the number of devices. `grayscale` and `jpeg` also transform stored uint8 images, `bit_depth` only
these.

Example:
  >>> import jax
  >>> import miue_jax.transforms as transforms
  >>> images = jax.numpy.full((4, 32, 32, 3), 0.5)
  >>> keys = jax.random.split(jax.random.key(0), len(images))
  >>> flipped = transforms.augment("crop_flip", keys, images)
  >>> transforms.jpeg(flipped, quality=50).shape
  (4, 32, 32, 3)
"""

from miue_jax.transforms.adversaries import pgd, uniform_noise
from miue_jax.transforms.compression import (
  bit_depth,
  grayscale,
  identity,
  jpeg,
  random_transformation,
)
from miue_jax.transforms.flip_crop import augment
from miue_jax.transforms.hooks import Adversary, Augment, Hooks, Loss, Targets, Transformation
from miue_jax.transforms.mixing import blur, cutmix, cutout, mixup, noise
from miue_jax.transforms.trivialaugment import trivial_augment

__all__ = [
  "Adversary",
  "Augment",
  "Hooks",
  "Loss",
  "Targets",
  "Transformation",
  "augment",
  "bit_depth",
  "blur",
  "cutmix",
  "cutout",
  "grayscale",
  "identity",
  "jpeg",
  "mixup",
  "noise",
  "pgd",
  "random_transformation",
  "trivial_augment",
  "uniform_noise",
]
