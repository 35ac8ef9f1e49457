"""Reads features from `.npz` files."""

import os
from collections.abc import Collection

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
  key = _key(path, archive, key)
  array = archive[key]
  if array.dtype.kind not in "biuf":
    raise UserError(f"{key} of {path} is not an array of real numbers: convert it to float32.")
  if array.ndim not in (1, 2):
    raise UserError(
      f"{key} of {path} has shape {list(array.shape)}: flatten it to [samples, features]."
    )
  return array if array.ndim == 2 else array[:, None]


def _key(path: str | os.PathLike, names: Collection[str], key: str) -> str:
  if not key and len(names) == 1:
    return next(iter(names))
  if not key:
    raise UserError(f"{path} holds {names}: name the array to read.")
  if key not in names:
    raise UserError(f"{path} has no array {key!r}; it holds {names}.")
  return key
