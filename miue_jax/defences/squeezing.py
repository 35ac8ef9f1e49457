"""Image shortcut squeezing: store the training images with less in them.

Liu, Zhao and Larson, "Image Shortcut Squeezing: Countering Perturbative Availability Poisons with
Compression", ICML 2023. As there, only training images are squeezed; victims are tested on test
images as they are.
"""

import dataclasses
import functools
import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from miue_jax.data.dataset import Split
from miue_jax.defences.defence import Defence, Preprocess


def jpeg_defence(quality: int) -> Defence:
  """JPEG at `quality`; 10 is the paper's."""
  return Defence(f"jpeg{quality}", preprocess=_each(functools.partial(jpeg, quality=quality)))


def grayscale_defence() -> Defence:
  """Luma alone."""
  return Defence("grayscale", preprocess=_each(grayscale))


def bits_defence(bits: int) -> Defence:
  """`bits` bits for each channel; 2 is the paper's."""
  return Defence(f"bits{bits}", preprocess=_each(functools.partial(bit_depth, bits=bits)))


def jpeg(images: np.ndarray, quality: int) -> np.ndarray:
  """Images `[N, H, W, 1 or 3]`, uint8, after Pillow's JPEG codec (colour at half resolution)."""
  result = np.empty_like(images)
  for target, image in zip(result, images, strict=True):
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
      file, "JPEG", quality=quality
    )
    target[...] = np.asarray(Image.open(file, formats=("JPEG",))).reshape(image.shape)
  return result


def grayscale(images: np.ndarray) -> np.ndarray:
  """ITU-R 601 luma in all channels of uint8 `[N, H, W, 1 or 3]`; gray images stay as they are."""
  if images.shape[-1] == 1:
    return images
  tall = images.reshape(-1, *images.shape[2:])  # Pillow takes them as one image
  luma = np.asarray(Image.fromarray(tall).convert("L")).reshape(*images.shape[:3], 1)
  return np.repeat(luma, 3, axis=-1)


def bit_depth(images: np.ndarray, bits: int) -> np.ndarray:
  """Keeps the `bits` most significant bits of uint8 values and clears the others."""
  return images & np.uint8(256 - 2 ** (8 - bits))


def _each(change: Callable[[np.ndarray], np.ndarray]) -> Preprocess:
  """A preprocessing that changes every image by itself, when it is read where it is read late."""

  def preprocess(train: Split, clean: Split | None, seed: int) -> Split:
    del clean, seed
    return dataclasses.replace(train, images=train.images.map(lambda ids, block: change(block)))

  return preprocess
