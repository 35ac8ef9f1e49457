"""Carries a perturbation from the size of a network to the size of a picture, in integers.

Interpolation is bilinear in fixed-point arithmetic, so that every machine makes the same bytes.
"""

import numpy as np

from miue_jax.pictures.decode import Picture


def contrast_weights(picture: Picture, size: int, floor: float = 0.25) -> np.ndarray:
  """Returns weights float32 `[size, size]` in [floor, 1] that are low where a picture is smooth.

  Local contrast is measured on the full-size picture and averaged over the cells of a grid.
  """
  raise NotImplementedError


def shaped(
  delta: np.ndarray, weights: np.ndarray | None, *, colour_shift: bool = False
) -> np.ndarray:
  """Reshapes a perturbation int8 `[s, s, 3]` so that it is less visible; never enlarges its budget.

  Args:
    delta: Perturbation in 255ths.
    weights: What `contrast_weights` returns, or None.
    colour_shift: Whether to keep colour differences of low frequency, which eyes see first.
  """
  raise NotImplementedError


def carried(delta: np.ndarray, height: int, width: int, depth: int = 8) -> np.ndarray:
  """Returns a perturbation at the size of a picture, int16 `[height, width, C]`, in 255ths.

  Args:
    delta: Perturbation int8 `[s, s, C]` in 255ths.
    height: Height of the picture.
    width: Width of the picture.
    depth: 8 or 16 bits; with 16 the result is int32 in 65535ths, 257 of which are a 255th.
  """
  raise NotImplementedError


def apply(channels: np.ndarray, delta: np.ndarray) -> tuple[np.ndarray, bytes]:
  """Adds a perturbation to a picture.

  Args:
    channels: Stored pixels, uint8 or uint16 `[H, W, C]`; alpha is not changed.
    delta: Perturbation int8 `[s, s, 3]` in 255ths, or `[s, s, 1]`; a gray picture gets its luma.

  Returns:
    The perturbed pixels, of the same shape and type, and the corrections: what was lost by clipping
    at black and white, compressed.
  """
  raise NotImplementedError


def remove(channels: np.ndarray, delta: np.ndarray, corrections: bytes) -> np.ndarray:
  """Returns the original pixels, bit for bit, from what `apply` returned.

  Raises:
    UserError: The corrections do not belong to these pixels.
  """
  raise NotImplementedError
