"""Starting a network from one that was trained on other data, as a scraper does."""

import os
import pathlib
from typing import Any

import jax
import numpy as np

from miue_jax.machine import files
from miue_jax.settings.errors import UserError, first_line

Variables = dict[str, dict[str, Any]]

_KERNEL, _BIAS = "params/classifier/kernel", "params/classifier/bias"  # every network has them


def save(variables: Variables, path: str | os.PathLike) -> None:
  """Writes the leaves as plain arrays into an `.npz`, called by their paths.

  Raises:
    UserError: the file cannot be written.
  """
  leaves, _ = jax.tree.flatten_with_path(variables)
  with files.replacing(path) as file:
    np.savez(file, **{_name(keys): np.asarray(leaf) for keys, leaf in leaves})


def load(path: str | os.PathLike) -> Variables:
  """Reads what `save` wrote.

  Raises:
    UserError: no such file, or it holds anything but the float weights of a network.
  """
  advice = "give a file that --mode=pretrain wrote"
  if not pathlib.Path(path).is_file():
    raise UserError(f"There is no file {path} with weights to start from: {advice}.")
  arrays = dict(files.Archive(path, advice))
  result: Variables = {"params": {}, "batch_stats": {}}
  try:
    if not {_KERNEL, _BIAS} <= arrays.keys():
      raise ValueError(f"{_KERNEL} or {_BIAS} is missing")
    for key, value in arrays.items():
      *parents, leaf = key.split("/")
      if parents[:1] not in (["params"], ["batch_stats"]):
        raise ValueError(f"{key} is no weight of a network")
      if not (np.issubdtype(value.dtype, np.floating) and np.isfinite(value).all()):
        raise ValueError(f"{key} does not hold finite floating-point numbers")
      branch = result
      for parent in parents:
        branch = branch.setdefault(parent, {})
        if not isinstance(branch, dict):
          raise ValueError(f"{key} lies below another array")
      branch[leaf] = value.astype(np.float32)
  except ValueError as error:
    raise UserError(
      f"{path} holds no weights to start from ({first_line(error)}): {advice}."
    ) from error
  return result


def transplant(trained: Variables, fresh: Variables) -> Variables:
  """Variables of `trained` for the task of `fresh`: its classifier stays where classes differ.

  Args:
    trained: `{"params": ..., "batch_stats": ...}` of the pretrained network.
    fresh: the same of the network to start, newly drawn.

  Returns:
    Leaves of `trained`; but where its classifier has another shape, that of `fresh`.

  Raises:
    UserError: the networks differ in more than the number of classes.
  """
  params = dict(trained["params"])
  old, new = _shapes(trained), _shapes(fresh)
  # Fewer or more features would be another network, not another task.
  if old[_BIAS] != new[_BIAS] and old[_KERNEL][:-1] == new[_KERNEL][:-1]:
    params["classifier"] = fresh["params"]["classifier"]
  result = {"params": params, "batch_stats": trained["batch_stats"]}
  old, new = _shapes(result), _shapes(fresh)
  # That classes differ is the reader's intention: what else differs is told first.
  for path in sorted(old.keys() | new.keys(), key=lambda path: (path == _BIAS, path)):
    there, here = (shapes.get(path, "missing") for shapes in (old, new))
    if there != here:
      raise UserError(
        f"The pretrained network is another one ({path} is {there} there, {here} here): choose its "
        "model name, width and stem, and images of its size and channels."
      )
  return result


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """Shape of every leaf by its path, e.g. "params/Conv_0/kernel"."""
  leaves, _ = jax.tree.flatten_with_path(tree)
  return {_name(keys): leaf.shape for keys, leaf in leaves}


def _name(keys: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(keys, simple=True, separator="/")
