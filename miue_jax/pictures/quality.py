"""Measures how visible a perturbation is at the size of the picture."""

import dataclasses

import numpy as np
from skimage import color
from skimage.metrics import structural_similarity

from miue_jax.pictures.decode import Picture, srgb

_WINDOW = 7  # pixels; the default of scikit-image
_ROWS = 64  # of a strip
_PIXELS = 2**22  # of the strips in which colours and structure are compared, at most


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
  """Compares two pictures of the same size in sRGB and 8 bits.

  PSNR is over all pixels. CIEDE2000 and SSIM are over evenly spaced strips of 64 rows, all of them
  if the picture has at most 4 megapixels.
  """
  first, second = srgb(original), srgb(changed)
  height, width = first.shape[:2]
  starts = np.arange(0, height, _ROWS)
  most = max(1, _PIXELS // (_ROWS * width))
  if len(starts) > most:
    starts = starts[np.linspace(0, len(starts) - 1, most).round().astype(int)]
  differences, similar = [], []
  for start in starts:
    pair = [part[start : start + _ROWS] for part in (first, second)]
    differences.append(color.deltaE_ciede2000(*(color.rgb2lab(part) for part in pair)).ravel())
    if min(pair[0].shape[:2]) >= _WINDOW:
      options = {"win_size": _WINDOW, "data_range": 255, "channel_axis": -1}
      similar.append(float(structural_similarity(*pair, **options)))
  delta_e = np.concatenate(differences)
  squares = sum(
    float(np.square(first[s : s + _ROWS].astype(np.int32) - second[s : s + _ROWS]).sum())
    for s in range(0, height, _ROWS)
  )
  return Quality(
    float(delta_e.mean()),
    float(np.percentile(delta_e, 99)),
    float(np.mean(similar)) if similar else None,
    float(10 * np.log10(255**2 * first.size / squares)) if squares else None,
  )
