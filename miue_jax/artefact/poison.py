"""The artefact: integer delta + manifest; save, load, apply, restore.

The delta is what remains of the perturbation after rounding and clipping, so that `apply` then
`restore` gives back the clean image bit for bit: whoever holds the poison holds the key.

On the disk a poison is a folder with `delta.npy` (int8 `[N, H, W, C]`, in 255ths; int16 where the
budget allows changes above 127) and `manifest.json`. Both are untrusted when they are loaded.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Iterator
from typing import Any

import numpy as np

from miue_jax import budget
from miue_jax.artefact import quality
from miue_jax.data.dataset import Dataset
from miue_jax.data.reader import LazyImages
from miue_jax.machine import files
from miue_jax.settings.errors import UserError

_FORMAT = 2
_SSIM_IMAGES = 256
_CHUNK = 1024  # images widened to int16 at a time

# What every manifest holds. `perturbed` is there only when a fraction of the images was perturbed,
# `norm` and `budget` (the same in words) only when epsilon does not bound every pixel.
_FIELDS = {
  "format": int,
  "method": str,
  "epsilon": int | float,  # in [0, 1] pixel units; 1 when nothing is bounded
  "epsilon_255ths": int | float,
  "seed": int,
  "config": dict,
  "dataset": str,
  "fingerprint": str,  # Dataset.fingerprint
  "shape": list,  # [N, H, W, C]
  "versions": dict,
  "max_delta_255ths": int,  # the largest |delta|
  "changed_images": int,
  "psnr_db": int | float | None,  # mean over the changed images; None if there are none
  "ssim": int | float | None,  # mean over `ssim_images`; None if there are none or no window fits
  "ssim_images": str,
  "seconds": int | float,  # of generation
  "delta_sha256": str,  # of the delta's bytes in C order
}


@dataclasses.dataclass(frozen=True)
class Poison:
  """A perturbation of one dataset's training images.

  Attributes:
    delta: int8 or int16 `[N, H, W, C]` in 255ths; clean + delta lies in 0..255.
    manifest: where it comes from and what it does to the images, as JSON values.
  """

  delta: np.ndarray
  manifest: dict[str, Any]


def make(
  dataset: Dataset,
  delta: np.ndarray,
  *,
  method: str,
  epsilon: float,
  config: dict[str, Any],
  seed: int,
  seconds: float,
  norm: str = "linf",
  extra: dict[str, Any] | None = None,
) -> Poison:
  """Measures a quantised perturbation and writes its manifest.

  Args:
    dataset: whose training images are perturbed.
    delta: `[N, H, W, C]` in 255ths, after rounding and clipping (`budget.quantise`).
    method: its name.
    epsilon: the budget, in [0, 1] pixel units.
    config: the whole experiment; anything JSON can hold.
    seed: of the generation.
    seconds: the generation took.
    norm: what epsilon bounds, one of `budget.NORMS`.
    extra: further entries of the manifest. `{"perturbed": ids}` lists the images that were
      perturbed, where that is only a fraction of them.

  Raises:
    UserError: clean + delta leaves 0..255.
    ValueError: the delta has another type or shape than the images allow, or exceeds the budget;
      a number of the manifest is not finite.
  """
  images = dataset.train.images
  stored = budget.stored_type(epsilon, norm)
  if delta.dtype != stored or delta.shape != images.shape:
    raise ValueError(f"delta is {delta.dtype} {delta.shape}; expected {stored} {images.shape}")
  if excess := _excess(delta, epsilon, norm):
    raise ValueError(f"delta {excess}")
  for _ in _shifted_blocks(images, delta, 1):
    pass  # it raises where a sum leaves 0..255
  changed = np.flatnonzero(delta.reshape(len(delta), -1).any(axis=1))
  manifest = {
    "format": _FORMAT,
    "method": method,
    **_budget_lines(epsilon, norm),
    "seed": seed,
    "config": config,
    "dataset": dataset.name,
    "fingerprint": dataset.fingerprint,
    "shape": delta.shape,
    "versions": _versions(),
    "max_delta_255ths": _max_abs(delta),
    "changed_images": len(changed),
    "psnr_db": quality.psnr(delta, changed),
    "ssim": _mean_ssim(images, delta, changed),
    "ssim_images": f"at most {_SSIM_IMAGES} of the changed images, evenly spaced",
    "seconds": seconds,
    "delta_sha256": _sha256(delta),
    **(extra or {}),
  }
  # NumPy values become plain ones and tuples lists: the manifest is what will be read back.
  text = json.dumps(manifest, allow_nan=False, default=lambda value: value.tolist())
  return Poison(delta, json.loads(text))


def save(poison: Poison, directory: str | os.PathLike) -> None:
  """Writes `delta.npy`, then `manifest.json`: a manifest on the disk means a complete poison.

  Raises:
    UserError: the disk is full, read-only or not ours.
  """
  directory = pathlib.Path(directory)
  with files.reported("write", directory):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "manifest.json").unlink(missing_ok=True)
  delta = np.ascontiguousarray(poison.delta)
  with files.replacing(directory / "delta.npy") as file:
    # np.save goes through the C library, whose errors do not say that the disk is full.
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(delta))
    file.write(delta.data)
  with files.replacing(directory / "manifest.json") as file:
    file.write(json.dumps(poison.manifest, indent=2).encode())


def load(directory: str | os.PathLike, dataset: Dataset | None = None) -> Poison:
  """Reads and checks a poison.

  Args:
    directory: where `save` put it.
    dataset: the clean data it must belong to; None where only the poison is at hand.

  Raises:
    UserError: there is no poison, it is damaged, it exceeds its own budget, or it belongs to
      another dataset.
  """
  directory = pathlib.Path(directory)
  manifest = _read_manifest(directory / "manifest.json")
  if dataset is not None:
    check_dataset(manifest, dataset)
  path = directory / "delta.npy"
  if not path.is_file():
    raise UserError(f"{path} is missing: copy it from where the poison was made.")
  bound = (manifest["epsilon"], manifest.get("norm", "linf"))
  delta = _read_delta(path, tuple(manifest["shape"]), budget.stored_type(*bound))
  if _sha256(delta) != manifest["delta_sha256"]:
    raise UserError(f"{path} is damaged (its sha256 is not the manifest's): copy it again.")
  if excess := _excess(delta, *bound):
    raise UserError(f"{path} {excess}: generate the poison again.")
  return Poison(delta, manifest)


def check_dataset(manifest: dict[str, Any], dataset: Dataset) -> None:
  """Raises a UserError unless the manifest's poison was made for `dataset`."""
  if manifest["fingerprint"] != dataset.fingerprint:
    raise UserError(
      f"This poison belongs to another dataset: it was made for {manifest['dataset']!r} with "
      f"fingerprint {manifest['fingerprint'][:12]}, but {dataset.name!r} has "
      f"{dataset.fingerprint[:12]}; use the same images, order and data settings, or generate a "
      "poison for these."
    )


def apply(poison: Poison, images: np.ndarray | LazyImages) -> np.ndarray | LazyImages:
  """Returns clean + delta.

  Args:
    poison: the artefact.
    images: the clean training images, uint8 `[N, H, W, C]`.

  Returns:
    uint8 `[N, H, W, C]`, read when indexed where `images` are.

  Raises:
    UserError: these are not the images it was made for: the shape differs or a sum leaves 0..255.
  """
  return _shifted(images, poison.delta, 1)


def restore(poison: Poison, poisoned: np.ndarray | LazyImages) -> np.ndarray | LazyImages:
  """Returns poisoned - delta, which is the clean images bit for bit; otherwise as `apply`."""
  return _shifted(poisoned, poison.delta, -1)


def _shifted(
  images: np.ndarray | LazyImages, delta: np.ndarray, sign: int
) -> np.ndarray | LazyImages:
  if isinstance(images, LazyImages):
    _check_fit(images, delta)
    return images.map(lambda ids, part: _shifted(part, delta[ids], sign))
  shifted = np.empty_like(images)
  for part, exact in _shifted_blocks(images, delta, sign):
    shifted[part] = exact
  return shifted


def _check_fit(images: np.ndarray | LazyImages, delta: np.ndarray) -> None:
  if images.dtype != np.uint8 or images.shape != delta.shape:
    raise UserError(
      f"This poison is for uint8 images of shape {list(delta.shape)}, not {images.dtype} of shape "
      f"{list(images.shape)}: use the images it was made for."
    )


def _shifted_blocks(
  images: np.ndarray | LazyImages, delta: np.ndarray, sign: int
) -> Iterator[tuple[slice, np.ndarray]]:
  """Yields parts of the images and images + sign * delta of them, int16."""
  _check_fit(images, delta)
  for start in range(0, len(images), _CHUNK):
    part = slice(start, start + _CHUNK)
    exact = images[part] + sign * delta[part].astype(np.int16)
    if exact.min() < 0 or exact.max() > 255:
      raise UserError(
        f"Pixels leave 0..255 among images {start} to {start + len(exact) - 1}: these are not the "
        "images this poison was made for."
      )
    yield part, exact


def _read_manifest(path: pathlib.Path) -> dict[str, Any]:
  if not path.is_file():
    raise UserError(
      f"There is no complete poison in {path.parent} (manifest.json is missing): run the generate "
      "stage first or correct the path."
    )
  with files.reported("read", path):
    content = path.read_bytes()
  try:
    manifest = json.loads(content, parse_constant=_no_constant)
  except (ValueError, RecursionError) as error:
    raise UserError(f"{path} is not JSON ({error}): copy it again.") from error
  if not isinstance(manifest, dict):
    raise UserError(f"{path} is not a manifest: it must hold one JSON object.")
  for key, kind in _FIELDS.items():
    # A bool is an int to Python.
    if not isinstance(manifest.get(key, ...), kind) or isinstance(manifest[key], bool):
      raise UserError(f"{path} lacks a valid {key!r}: copy it again.")
  if manifest["format"] != _FORMAT:
    raise UserError(
      f"{path} has format {manifest['format']}, this version reads {_FORMAT}: install the version "
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
    raise UserError(f"{path} has a 'perturbed' that does not list images 0..{count - 1}.")
  return manifest


def _no_constant(name: str) -> None:
  raise ValueError(f"{name} is no JSON number")


def _check_shape(path: pathlib.Path, shape: list[Any]) -> int:
  if (
    len(shape) != 4
    or not all(type(size) is int and size > 0 for size in shape)
    or shape[-1] not in (1, 3)
  ):
    raise UserError(f"{path} has a 'shape' other than [N, H, W, 1] or [N, H, W, 3]: copy it again.")
  return shape[0]


def _read_delta(path: pathlib.Path, shape: tuple[int, ...], stored: np.dtype) -> np.ndarray:
  try:
    # A memory map never unpickles, and it compares the header with the size of the file before
    # anything is allocated.
    delta = np.lib.format.open_memmap(path, mode="r")
  except Exception as error:  # NumPy's header parser raises whatever a damaged file provokes.
    raise UserError(f"{path} is damaged ({error}): copy it again.") from error
  if delta.dtype != stored or delta.shape != shape:
    raise UserError(
      f"{path} is {delta.dtype} of shape {list(delta.shape)}, the manifest says {stored} of shape "
      f"{list(shape)}: copy both files again."
    )
  return np.array(delta, order="C")


def _sha256(delta: np.ndarray) -> str:
  return hashlib.sha256(np.ascontiguousarray(delta).data).hexdigest()


def _max_abs(delta: np.ndarray) -> int:
  """The largest |delta|; abs(-128) does not fit into int8."""
  return max(int(delta.max()), -int(delta.min()))


def _excess(delta: np.ndarray, epsilon: float, norm: str) -> str | None:
  """How a delta breaks its budget, in words; None if it keeps it."""
  reached, limit = _max_abs(delta), budget.largest_change(epsilon, norm)
  if reached > limit:
    return f"reaches {reached}/255 but its budget is {limit}/255"
  blocks = (delta[start : start + _CHUNK] for start in range(0, len(delta), _CHUNK))
  if norm == "l2" and any(budget.exceeds(block, epsilon, norm).any() for block in blocks):
    return f"has an image whose root mean square change exceeds {255 * epsilon:.4g}/255"
  return None


def _budget_lines(epsilon: float, norm: str) -> dict[str, Any]:
  """What the manifest says about the budget."""
  if norm == "linf":
    return {"epsilon": epsilon, "epsilon_255ths": budget.budget(epsilon)}
  if norm == "none":
    words = "none: changes are not bounded by a norm"
    return {"epsilon": 1.0, "epsilon_255ths": 255, "norm": norm, "budget": words}
  level = round(255 * epsilon, 4)
  words = f"L2: every image by at most {level:g}/255, root mean square over its values"
  return {"epsilon": epsilon, "epsilon_255ths": level, "norm": norm, "budget": words}


def _mean_ssim(
  images: np.ndarray | LazyImages, delta: np.ndarray, changed: np.ndarray
) -> float | None:
  if not len(changed):
    return None
  chosen = changed[
    np.linspace(0, len(changed) - 1, min(_SSIM_IMAGES, len(changed))).round().astype(int)
  ]
  clean = images[chosen]
  return quality.ssim(clean, _shifted(clean, delta[chosen], 1))


def _versions() -> dict[str, str]:
  versions = {"python": platform.python_version()}
  for package in ("miue-jax", "jax", "jaxlib", "flax", "numpy"):
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      versions[package] = "not installed"  # miue_jax run from a source tree
  return versions
