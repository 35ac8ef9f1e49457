"""Measures how visible a perturbation is at the size of the picture."""

import dataclasses

import numpy as np

from miue_jax.pictures.decode import Picture


@dataclasses.dataclass(frozen=True)
class Quality:
  """Describes the visible difference of two pictures.

  Attributes:
    delta_e_mean: Mean CIEDE2000 over pixels; 1 is just noticeable side by side.
    delta_e_p99: Its 99th percentile.
    ssim: Mean structural similarity; None for pictures below 7 x 7 pixels.
    psnr: Peak signal-to-noise ratio in dB; None if the pictures are the same.
  """

  delta_e_mean: float
  delta_e_p99: float
  ssim: float | None
  psnr: float | None


def compare(original: Picture, changed: Picture) -> Quality:
  """Compares two pictures of the same size in sRGB, in strips of rows."""
  raise NotImplementedError


def ciede2000(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Returns the colour difference CIEDE2000 of CIELAB colours `[..., 3]`.

  Source: Sharma, Wu, Dalal, "The CIEDE2000 color-difference formula", 2005.
  """
  raise NotImplementedError
