"""Measures how visible a perturbation is."""

import chex
import numpy as np
from skimage.metrics import structural_similarity

_WINDOW = 7  # pixels; the default of scikit-image


def psnr(delta: np.ndarray, ids: np.ndarray) -> float | None:
  """Returns the mean over images of 10 log10(255^2 / mean square of delta), in dB.

  Args:
    delta: Perturbation, integers `[N, H, W, C]` in 255ths.
    ids: Indices of the images that count; each image must be changed.

  Returns:
    None if `ids` is empty.
  """
  if not len(ids):
    return None
  squares = [np.square(delta[i], dtype=np.float32).mean(dtype=np.float64) for i in ids]
  return float(np.mean(10 * np.log10(255**2 / np.array(squares))))


def ssim(clean: np.ndarray, changed: np.ndarray) -> float | None:
  """Returns the mean structural similarity of uint8 images `[n, H, W, C]`.

  Returns:
    None if the images are smaller than the smallest window, 3 x 3 pixels.
  """
  chex.assert_equal_shape([clean, changed])
  window = min(_WINDOW, *clean.shape[1:3])
  window -= 1 - window % 2  # it must be odd
  if window < 3:
    return None
  options = {"win_size": window, "data_range": 255, "channel_axis": -1}
  pairs = zip(clean, changed, strict=True)
  return float(np.mean([structural_similarity(*pair, **options) for pair in pairs]))
