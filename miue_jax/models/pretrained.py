"""Starting a network from one that was trained on other data, as a scraper does."""

from typing import Any

import jax

from miue_jax.errors import UserError

Variables = dict[str, dict[str, Any]]


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
  kernel, bias = "params/classifier/kernel", "params/classifier/bias"
  # Fewer or more features would be another network, not another task.
  if old[bias] != new[bias] and old[kernel][:-1] == new[kernel][:-1]:
    params["classifier"] = fresh["params"]["classifier"]
  result = {"params": params, "batch_stats": trained["batch_stats"]}
  old, new = _shapes(result), _shapes(fresh)
  # That classes differ is the reader's intention: what else differs is told first.
  for path in sorted(old.keys() | new.keys(), key=lambda path: (path == bias, path)):
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
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves
  }
