"""Initialises a network from the weights of one that was trained on other data."""

import os
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from miue_jax import models
from miue_jax.machine import archives, files
from miue_jax.settings.errors import UserError, first_line

Variables = dict[str, dict[str, Any]]

# Every network has these two arrays.
_KERNEL, _BIAS = "params/classifier/kernel", "params/classifier/bias"

# What no network exceeds: arrays, parts of a name, bytes.
_MOST_ARRAYS, _DEEPEST, _LARGEST = 100_000, 20, 1 << 34


def save(variables: Variables, path: str | os.PathLike) -> None:
  """Writes variables into an `.npz` file, one array per leaf, named by its path.

  Raises:
    UserError: The file cannot be written.
  """
  leaves = flatten_dict(variables, sep="/")
  with files.replacing(path) as file:
    arrays: dict[str, Any] = {name: np.asarray(leaves[name]) for name in sorted(leaves)}
    np.savez(file, **arrays)


def load(path: str | os.PathLike) -> Variables:
  """Reads variables from a file that `save` wrote.

  Raises:
    UserError: The file does not exist, or it holds anything but the float weights of a network.
  """
  advice = "give a file that --mode=pretrain wrote"
  if not files.is_file(path):
    raise UserError(f"There is no file {path} with weights: {advice}.")
  archive = archives.Archive(path, advice)
  result: Variables = {"params": {}, "batch_stats": {}}
  try:
    _check_headers(archive)
    for key in archive:
      *parents, leaf = key.split("/")
      branch: dict[str, Any] = result
      for parent in parents:
        branch = branch.setdefault(parent, {})
        if not isinstance(branch, dict):
          raise ValueError(f"{key} is inside another array")
      if leaf in branch:
        raise ValueError(f"{key} is an array and holds arrays")
      branch[leaf] = _weights(key, archive[key])
  except ValueError as error:
    raise UserError(f"{path} does not hold weights ({first_line(error)}): {advice}.") from error
  return result


def _check_headers(archive: archives.Archive) -> None:
  """Raises a ValueError for what cannot be the weights of a network, before they are read."""
  if not {_KERNEL, _BIAS} <= archive.keys():
    raise ValueError(f"{_KERNEL} or {_BIAS} is missing")
  if len(archive) > _MOST_ARRAYS:
    raise ValueError(f"there are {len(archive):,} arrays")
  size, shapes = 0, {}
  for key in archive:
    shown = files.shown(key[:100])
    if key.split("/")[0] not in ("params", "batch_stats") or not 1 <= key.count("/") <= _DEEPEST:
      raise ValueError(f"{shown} is not a weight of a network")
    header = archive.header(key)
    if not np.issubdtype(header.dtype, np.floating):
      raise ValueError(f"{shown} does not hold finite floating-point numbers")
    size, shapes[key] = size + header.bytes, header.shape
  if size > _LARGEST:
    raise ValueError(f"they take {size:,} bytes")
  kernel, bias = shapes[_KERNEL], shapes[_BIAS]
  if len(kernel) != 2 or bias != kernel[1:]:
    raise ValueError(f"{_KERNEL} is {kernel} and {_BIAS} is {bias}")


def _weights(key: str, array: np.ndarray) -> np.ndarray:
  with np.errstate(over="ignore"):
    weights = array.astype(np.float32)
  if not np.isfinite(weights).all():
    raise ValueError(f"{files.shown(key)} does not hold finite floating-point numbers")
  return weights


def transplant(trained: Variables, fresh: Variables) -> Variables:
  """Returns the variables of `trained`, with the classifier of `fresh` if the classes differ.

  Args:
    trained: `{"params": ..., "batch_stats": ...}` of the pretrained network.
    fresh: Newly drawn variables of the network to initialise, in the same form.

  Raises:
    UserError: The networks differ in more than the number of classes.
  """
  params = dict(trained["params"])
  old, new = _shapes(trained), _shapes(fresh)
  # A different number of features means another network, not only another task.
  if old[_BIAS] != new[_BIAS] and old[_KERNEL][:-1] == new[_KERNEL][:-1]:
    params["classifier"] = trained["params"]["classifier"] | fresh["params"]["classifier"]
  result = {"params": params, "batch_stats": trained["batch_stats"]}
  old, new = _shapes(result), _shapes(fresh)
  # The user knows that the classes differ, so the message names another difference first.
  for path in sorted(old.keys() | new.keys(), key=lambda path: (path == _BIAS, path)):
    there, here = (shapes.get(path, "missing") for shapes in (old, new))
    if there != here:
      raise UserError(
        f"The pretrained network does not match ({path} is {there} there, {here} here): choose the "
        "same model name, width and stem, and images of the same size and channels."
      )
  return result


def check(trained: Variables, module: nn.Module, image: tuple[int, ...]) -> None:
  """Raises a UserError if these are not the weights of a network, as `transplant` does."""
  transplant(trained, jax.eval_shape(lambda: models.init(module, jax.random.key(0), image)))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """Returns the shape of every leaf by its path, e.g. "params/Conv_0/kernel"."""
  leaves: Any = flatten_dict(tree, sep="/")
  return {path: leaf.shape for path, leaf in leaves.items()}
