"""Checks images and labels that are given as arrays: NumPy, JAX, or of a library that converts."""

from typing import Any

import numpy as np

from miue_jax.settings.errors import UserError


def images(value: Any, what: str) -> np.ndarray:
  """Returns images as uint8 `[N, H, W, C]`.

  Args:
    value: Array-like uint8 `[N, H, W]` or `[N, H, W, C]`, where C is 1 or 3.
    what: Subject of error messages, in the plural.

  Raises:
    UserError: It is not such an array.
  """
  array = _array(value, what)
  if np.issubdtype(array.dtype, np.floating):
    raise UserError(
      f"{what} are {array.dtype}: convert images in [0, 1] with "
      "numpy.rint(255 * images).astype(numpy.uint8)."
    )
  if array.dtype != np.uint8 or array.ndim not in (3, 4):
    raise UserError(
      f"{what} have type {array.dtype} and shape {list(array.shape)}; they must be uint8 [N, H, W] "
      "or [N, H, W, C]."
    )
  return array[..., None] if array.ndim == 3 else array


def labels(value: Any, count: int, what: str) -> np.ndarray:
  """Returns labels as int32 `[N]`.

  Args:
    value: Array-like integers `[N]` or `[N, 1]`, at least 0.
    count: Number of images.
    what: Subject of error messages, in the plural.

  Raises:
    UserError: It is not such an array, or its length is not `count`.
  """
  array = _array(value, what)
  if not np.issubdtype(array.dtype, np.integer) or array.shape not in ((count,), (count, 1)):
    raise UserError(
      f"{what} have type {array.dtype} and shape {list(array.shape)}; they must be {count} "
      "integers, one for each image."
    )
  if array.size and not 0 <= array.min() <= array.max() < 2**31:
    raise UserError(f"{what} reach from {array.min()} to {array.max()}: number classes from 0.")
  return array.reshape(-1).astype(np.int32)


def _array(value: Any, what: str) -> np.ndarray:
  try:
    return np.asarray(value)
  except Exception as error:  # Array-likes of other libraries raise any exception.
    raise UserError(f"{what} cannot be converted to a NumPy array: give a plain array.") from error
