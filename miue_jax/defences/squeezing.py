"""Provides image shortcut squeezing: the training images are stored with less information.

Liu, Zhao and Larson, "Image Shortcut Squeezing: Countering Perturbative Availability Poisons with
Compression", ICML 2023. As in the paper, only training images are compressed; victims are tested on
unchanged test images. The paper uses grayscale, JPEG at quality 10 and 2 bits per channel.
"""

import numpy as np

from miue_jax import transforms
from miue_jax.defences.defence import Defence, each

GRAYSCALE = Defence("grayscale", preprocess=each(lambda x: np.asarray(transforms.grayscale(x))))


def jpeg(quality: int) -> Defence:
  """Returns the defence that stores images as JPEG at `quality`."""
  preprocess = each(lambda images: np.asarray(transforms.jpeg(images, quality)))
  return Defence(f"jpeg{quality}", preprocess=preprocess)


def bits(count: int) -> Defence:
  """Returns the defence that keeps `count` bits of each channel."""
  preprocess = each(lambda images: transforms.bit_depth(images, count))
  return Defence(f"bits{count}", preprocess=preprocess)
