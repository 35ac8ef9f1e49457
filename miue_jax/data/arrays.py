"""Checks images and labels that are given as arrays of NumPy, JAX or other libraries."""

from typing import Any

import numpy as np

from miue_jax.settings.errors import UserError, unreadable


def images(value: Any, what: str) -> np.ndarray:
  """Returns images as uint8 `[N, H, W, C]`.

  Args:
    value: Array-like uint8 `[N, H, W]` or `[N, H, W, C]`, where C is 1 or 3.
    what: Subject of error messages.

  Raises:
    UserError: It is not such an array; the message says how to convert it, if that is known.
  """
  array = _array(value, what)
  shaped = array.ndim == 3 or (array.ndim == 4 and array.shape[3] in (1, 3))
  if array.dtype != np.uint8 or not shaped or not array.size:
    raise UserError(
      f"{what} must be uint8 [N, H, W], [N, H, W, 1] or [N, H, W, 3], and not empty; here: "
      f"{array.dtype} of shape {list(array.shape)}{_image_remedy(array)}."
    )
  return array[..., None] if array.ndim == 3 else array


def labels(value: Any, count: int, what: str) -> np.ndarray:
  """Returns labels as int32 `[N]`.

  Args:
    value: Array-like integers `[N]` or `[N, 1]`, at least 0.
    count: Number of images.
    what: Subject of error messages.

  Raises:
    UserError: It is not such an array, or its length is not `count`; the message says how to
      convert it, if that is known.
  """
  array = _array(value, what)
  if not np.issubdtype(array.dtype, np.integer) or array.shape not in ((count,), (count, 1)):
    raise UserError(
      f"{what} must be {count} integers, one for each image; here: {array.dtype} of shape "
      f"{list(array.shape)}{_label_remedy(array, count)}."
    )
  if array.size and not 0 <= array.min() <= array.max() < 2**31:
    raise UserError(
      f"{what} must be at least 0 and less than 2**31; here: {array.min()} to {array.max()}: "
      "number the classes 0, 1, 2, ..."
    )
  return array.reshape(-1).astype(np.int32)


def class_names(labels: np.ndarray, what: str) -> tuple[str, ...]:
  """Returns the names of the classes 0, 1, 2, ... up to the largest label.

  Args:
    labels: Integer labels, at least 0.
    what: Subject of the error message.

  Raises:
    UserError: A class below the largest label has no image.
  """
  largest = int(labels.max(initial=0))
  # No list is as long as a large label, such as the number of a patient.
  gaps = np.setdiff1d(np.arange(min(largest, len(labels))), labels)
  if gaps.size:
    raise UserError(
      f"{what} has no training image of class {gaps[0]} but has label {largest}: number the "
      "classes 0, 1, 2, ... without gaps."
    )
  return tuple(map(str, range(largest + 1)))


def _image_remedy(array: np.ndarray) -> str:
  """Returns the end of a message, which says how to convert images that people often have."""
  steps = "images"
  if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] not in (1, 3):
    steps += ".transpose(0, 2, 3, 1)"
  if array.dtype != np.uint8:
    if array.dtype.kind not in "iuf" or not array.size:
      return ""
    low, high = array.min(), array.max()
    if np.isnan(low):
      return " and values from nan to nan: replace those that are not numbers"
    if not (low >= 0 and high <= 255):
      return f" and values from {low:g} to {high:g}: scale them to 0..255"
    if array.dtype.kind in "iu" and high <= 1:  # a mask, or all black
      return " and no value above 1: scale them to 0..255"
    steps = f"numpy.rint({'255 * ' if high <= 1 else ''}{steps}).astype(numpy.uint8)"
  return f": convert with {steps}" if steps != "images" else ""


def _label_remedy(array: np.ndarray, count: int) -> str:
  """Returns the end of a message, which says how to convert labels that people often have."""
  if array.ndim == 2 and array.shape[0] == count and array.shape[1] > 1:
    marks = array.dtype.kind in "biu" and array.size and array.max() <= 1
    if marks and not (array.sum(1) == 1).all():
      return (
        ", several labels or none for an image: choose the column of one finding, for example with "
        "labels[:, 0]"
      )
    return ": convert one row per image with labels.argmax(1)"
  fractions = array.dtype.kind == "f" and not np.array_equal(array, np.rint(array))
  if fractions or array.shape not in ((count,), (count, 1)):
    return ""
  if array.dtype.kind in "USO":
    return ": convert names with numpy.unique(labels, return_inverse=True)[1]"
  return ": convert with labels.astype(int)"


def _array(value: Any, what: str) -> np.ndarray:
  try:
    return np.asarray(value)
  except Exception as error:  # Array-likes of other libraries raise any exception.
    raise UserError(unreadable(what, error)) from error
