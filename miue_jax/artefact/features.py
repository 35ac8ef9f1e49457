"""Reads features from `.npz` files."""

import os

import numpy as np

from miue_jax.machine import archives
from miue_jax.settings.errors import UserError


def load(path: str | os.PathLike, key: str = "") -> np.ndarray:
  """Reads one array of features, `[samples, features]`; `[samples]` becomes one feature.

  Args:
    path: An `.npz` file, as `numpy.savez` writes it. Pickled objects are refused.
    key: Name of the array; may be empty where the file holds only one.

  Raises:
    UserError: There is no such file or array, the file is not an `.npz` file, or the array is not
      numbers of one or two dimensions.
  """
  archive = archives.Archive(path)
  if not key:
    if len(archive) != 1:
      raise UserError(f"{path} holds {archive}: name the array to read.")
    (key,) = archive
  if key not in archive:
    raise UserError(f"{path} has no array {key!r}; it holds {archive}.")
  array = archive[key]
  if array.dtype.kind not in "biuf":
    raise UserError(f"{key} of {path} is not an array of real numbers: convert it to float32.")
  if array.ndim not in (1, 2):
    raise UserError(
      f"{key} of {path} has shape {list(array.shape)}: flatten it to [samples, features]."
    )
  return array if array.ndim == 2 else array[:, None]
