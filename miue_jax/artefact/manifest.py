"""Describes a poison in JSON, and checks such a description, which is not trusted."""

import importlib.metadata
import math
import pathlib
import platform
from typing import Any

from miue_jax import budget
from miue_jax.machine import documents, files
from miue_jax.settings.errors import UserError

FORMAT = 2

# Fields of every manifest. `perturbed` (ids) is added if only a fraction of the images is
# perturbed, `source_rows` if the images are a part of their source or in another order, `norm` and
# `budget` (the norm in words) if epsilon does not bound every pixel.
_FIELDS = {
  "format": int,
  "method": str,
  "epsilon": int | float,  # in [0, 1] pixel units; 1 if nothing is bounded
  "epsilon_255ths": int | float,
  "seed": int,
  "config": dict,
  "dataset": str,
  "fingerprint": str,  # Dataset.fingerprint
  "shape": list,  # [N, H, W, C]
  "versions": dict,
  "max_delta_255ths": int,  # largest |delta|
  "changed_images": int,
  "psnr_db": int | float | None,  # mean over the changed images; None if there are none
  "ssim": int | float | None,  # mean over `ssim_images`; None if there are none or they are tiny
  "ssim_images": str,
  "seconds": int | float,  # duration of the generation
  "delta_sha256": str,  # of the delta's bytes in C order
}


def budget_fields(epsilon: float, norm: str) -> dict[str, Any]:
  """Returns the fields about the budget."""
  if norm == "linf":
    return {"epsilon": epsilon, "epsilon_255ths": budget.budget(epsilon)}
  if norm == "none":
    words = "none: changes are not bounded by a norm"
    return {"epsilon": 1.0, "epsilon_255ths": 255, "norm": norm, "budget": words}
  level = round(255 * epsilon, 4)
  words = f"L2: every image by at most {level:g}/255, root mean square over its values"
  return {"epsilon": epsilon, "epsilon_255ths": level, "norm": norm, "budget": words}


def versions() -> dict[str, str]:
  """Returns the installed versions of Python and of the packages that make poisons."""
  found = {"python": platform.python_version()}
  for package in ("miue-jax", "jax", "jaxlib", "flax", "numpy"):
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      found[package] = "not installed"  # miue_jax runs from a source tree
  return found


def read(path: pathlib.Path) -> dict[str, Any]:
  """Reads and checks a manifest.

  Raises:
    UserError: There is no manifest, or it is damaged.
  """
  if not files.is_file(path):
    raise UserError(
      f"There is no complete poison in {path.parent} (manifest.json is missing): correct the path, "
      "copy the key there, or make a poison with --mode=generate."
    )
  manifest = documents.read_json(path, "copy it again")
  for key, kind in _FIELDS.items():
    value = manifest.get(key, ...)
    # Python's bool is an int, and its JSON reader accepts NaN.
    if (
      not isinstance(value, kind)
      or isinstance(value, bool)
      or (isinstance(value, float) and not math.isfinite(value))
    ):
      raise UserError(f"{path} lacks a valid {key!r}: copy it again.")
  if manifest["format"] != FORMAT:
    raise UserError(
      f"{path} has format {manifest['format']}, this version reads {FORMAT}: install the version "
      "that wrote it."
    )
  count = _check_shape(path, manifest["shape"])
  norm = manifest.get("norm", "linf")
  if norm not in budget.NORMS:
    raise UserError(f"{path} lacks a valid 'norm': copy it again.")
  largest = 1 if norm == "none" else 127 / 255
  if not 0 < manifest["epsilon"] <= largest:
    raise UserError(f"{path} has an epsilon outside 0..{255 * largest:g}/255: copy it again.")
  perturbed = manifest.get("perturbed", [])
  if not isinstance(perturbed, list) or not all(
    type(index) is int and 0 <= index < count for index in perturbed
  ):
    raise UserError(
      f"{path} has a 'perturbed' that does not list images 0..{count - 1}: copy it again."
    )
  return manifest


def _check_shape(path: pathlib.Path, shape: list[Any]) -> int:
  if (
    len(shape) != 4
    or not all(type(size) is int and size > 0 for size in shape)
    or shape[-1] not in (1, 3)
  ):
    raise UserError(
      f"{path} is damaged, because its shape is not [N, H, W, 1] or [N, H, W, 3]: copy it again."
    )
  return shape[0]
