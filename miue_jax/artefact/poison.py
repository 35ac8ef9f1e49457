"""Defines a poison: an integer perturbation with a manifest.

The perturbation is quantised: it is what remains after rounding and clipping. `apply` and then
`restore` therefore give back the clean images bit for bit, to everyone who has the poison.

On the disk a poison is a folder with `delta.npy` (int8 `[N, H, W, C]` in 255ths, or int16 if the
budget allows changes above 127) and `manifest.json`. Neither file is trusted when it is loaded.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import budget
from miue_jax.artefact import manifest as manifests
from miue_jax.artefact import quality
from miue_jax.data.dataset import Dataset
from miue_jax.data.images import Images
from miue_jax.machine import archives, files, reading
from miue_jax.settings.errors import UserError

_SSIM_IMAGES = 256

# The result of `apply` and `restore` is of the same kind as the images.
ImagesLike = TypeVar("ImagesLike", Images, np.ndarray, jax.Array)


@dataclasses.dataclass(frozen=True, eq=False)
class Poison:
  """Perturbs the training images of one dataset.

  Attributes:
    delta: Perturbation, int8 or int16 `[N, H, W, C]` in 255ths; clean + delta is in 0..255.
    manifest: Origin of the perturbation and its effect on the images, as JSON values.
  """

  delta: np.ndarray
  manifest: dict[str, Any]

  @classmethod
  def make(
    cls,
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
  ) -> "Poison":
    """Checks and measures a quantised perturbation, and makes its manifest.

    Args:
      dataset: Dataset whose training images are perturbed.
      delta: Perturbation `[N, H, W, C]` in 255ths, after rounding and clipping (`budget.quantise`).
      method: Name of the method.
      epsilon: Budget in [0, 1] pixel units.
      config: Settings of the whole experiment, as values that JSON can hold.
      seed: Seed of the generation.
      seconds: Duration of the generation.
      norm: Norm that epsilon bounds, one of `budget.NORMS`.
      extra: Further entries of the manifest. `{"perturbed": ids}` lists the perturbed images if
        they are only a fraction of all images.

    Raises:
      UserError: Clean + delta leaves 0..255.
      ValueError: The delta does not have the type or shape that the images and budget require, or
        exceeds the budget, or a number of the manifest is not finite.
    """
    images = dataset.train.images
    stored = budget.stored_type(epsilon, norm)
    if delta.dtype != stored or delta.shape != images.shape:
      raise ValueError(f"delta is {delta.dtype} {delta.shape}; expected {stored} {images.shape}")
    if excess := _excess(delta, epsilon, norm):
      raise ValueError(f"delta {excess}")
    for ids, block in images.blocks():
      _shifted(ids, block, delta[ids], 1)  # it raises where a sum leaves 0..255
    changed = np.flatnonzero(delta.reshape(len(delta), -1).any(axis=1))
    content = {
      "format": manifests.FORMAT,
      "method": method,
      **manifests.budget_fields(epsilon, norm),
      "seed": seed,
      "config": config,
      "dataset": dataset.name,
      "fingerprint": dataset.fingerprint,
      "shape": delta.shape,
      "versions": manifests.versions(),
      "max_delta_255ths": _max_abs(delta),
      "changed_images": len(changed),
      "psnr_db": quality.psnr(delta, changed),
      "ssim": _mean_ssim(images, delta, changed),
      "ssim_images": f"at most {_SSIM_IMAGES} of the changed images, evenly spaced",
      "seconds": seconds,
      "delta_sha256": _sha256(delta),
      **(extra or {}),
    }
    # NumPy values become Python's and tuples lists, so that the manifest equals what `load` reads.
    return cls(
      delta,
      json.loads(json.dumps(content, allow_nan=False, default=lambda value: value.tolist())),
    )

  @classmethod
  def load(cls, path: str | os.PathLike, dataset: Dataset | None = None) -> "Poison":
    """Reads and checks a poison.

    Args:
      path: Folder that `save` wrote.
      dataset: Clean data that the poison must belong to; None skips this check.

    Raises:
      UserError: There is no poison, it is damaged, it exceeds its budget, or it belongs to another
        dataset.
    """
    directory = pathlib.Path(path)
    manifest = manifests.read(directory / "manifest.json")
    if dataset is not None:
      _check_dataset(manifest, dataset)
    path = directory / "delta.npy"
    if not files.is_file(path):
      raise UserError(f"{path} is missing: copy it from where the poison was made.")
    bound = (manifest["epsilon"], manifest.get("norm", "linf"))
    stored, shape = budget.stored_type(*bound), tuple(manifest["shape"])
    advice = "the file is damaged, copy it again"
    header = archives.npy_header(path, advice)
    if header.dtype != stored or header.shape != shape:
      raise UserError(
        f"{path} is {header.dtype} of shape {list(header.shape)}, the manifest says {stored} of "
        f"shape {list(shape)}: copy both files again."
      )
    delta = archives.read_npy(path, advice)
    if _sha256(delta) != manifest["delta_sha256"]:
      raise UserError(
        f"{path} is damaged (its SHA-256 does not match the manifest): copy it again."
      )
    if excess := _excess(delta, *bound):
      raise UserError(f"{path} {excess}: generate the poison again.")
    return cls(delta, manifest)

  def save(self, path: str | os.PathLike) -> None:
    """Writes the poison into a folder that only this user can read.

    `manifest.json` is written last: if it exists, the poison is complete.

    Raises:
      UserError: The path is none, the files cannot be written, or the folder holds another poison.
    """
    reading.require_local(path, f"The folder {path!r}")
    directory = pathlib.Path(path)
    files.make_private(directory)
    manifest = directory / "manifest.json"
    before = manifests.read(manifest)["delta_sha256"] if files.exists(manifest) else None
    if before not in (None, self.manifest["delta_sha256"]):
      raise UserError(
        f"{directory} holds another poison, without which its images cannot be restored: choose "
        "another folder."
      )
    files.remove(manifest)
    delta = np.ascontiguousarray(self.delta)
    with files.replacing(directory / "delta.npy") as file:
      # np.save writes through the C library, whose errors do not mention a full disk.
      np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(delta))
      file.write(delta.data)
    files.write_json(manifest, self.manifest)
    with files.reported("write", directory):
      for name in ("delta.npy", "manifest.json"):
        (directory / name).chmod(0o600)

  def __eq__(self, other: object) -> bool:
    """Returns whether both change the same images in the same way."""
    if not isinstance(other, Poison):
      return NotImplemented
    same = self.manifest["fingerprint"] == other.manifest["fingerprint"]
    return same and np.array_equal(self.delta, other.delta)

  def check(self, dataset: Dataset) -> None:
    """Raises a UserError if the poison was made for another dataset."""
    _check_dataset(self.manifest, dataset)

  def apply(self, images: ImagesLike) -> ImagesLike:
    """Returns the poisoned images, clean + delta.

    Args:
      images: Clean training images, uint8 `[N, H, W, C]`, or `[N, H, W]` if C is 1.

    Returns:
      Images of the same kind and shape. Images that are read from files are changed when they are
      read.

    Raises:
      UserError: These are not the images that the poison was made for: the shape differs, or a sum
        leaves 0..255. For images from files, sums are checked when the images are read.
    """
    return self._changed(images, 1)

  def restore(self, images: ImagesLike) -> ImagesLike:
    """Returns the clean images, poisoned - delta, bit for bit.

    Args:
      images: Poisoned training images, as `apply` returns them.

    Returns:
      Images of the same kind and shape.

    Raises:
      UserError: Type or shape differ, or a pixel would leave 0..255. Smaller changes of the images
        cannot be noticed.
    """
    return self._changed(images, -1)

  def _changed(self, images: Any, sign: int) -> Any:
    if not isinstance(images, Images):
      array = np.asarray(images)
      gray = array.ndim == 3 and self.delta.shape[-1] == 1
      changed = self._changed(Images(array[..., None] if gray else array), sign)
      changed = np.asarray(changed).reshape(array.shape)
      return jnp.asarray(changed) if isinstance(images, jax.Array) else changed
    if images.dtype != np.uint8 or images.shape != self.delta.shape:
      raise UserError(
        f"This poison is for uint8 images of shape {list(self.delta.shape)}, not {images.dtype} of "
        f"shape {list(images.shape)}: use the images it was made for."
      )
    return images.map(lambda ids, block: _shifted(ids, block, self.delta[ids], sign))


def _shifted(ids: np.ndarray, images: np.ndarray, delta: np.ndarray, sign: int) -> np.ndarray:
  """Returns images + sign * delta, uint8; `ids` are the images' indices in error messages."""
  exact = images + sign * delta.astype(np.int16)
  if len(ids) and (exact.min() < 0 or exact.max() > 255):
    raise UserError(
      f"Pixels leave 0..255 among images {ids.min()} to {ids.max()}: these are not the images this "
      "poison was made for."
    )
  return exact.astype(np.uint8)


def _check_dataset(manifest: dict[str, Any], dataset: Dataset) -> None:
  if not isinstance(dataset, Dataset):
    raise UserError(f"dataset is {type(dataset).__name__}: give a Dataset.")
  if (shape := list(dataset.train.images.shape)) != (made := list(manifest["shape"])):
    raise UserError(
      f"This poison belongs to another dataset: it was made for images of shape {made}, but those "
      f"of {dataset.name!r} have shape {shape}; use the same images and data settings."
    )
  if manifest["fingerprint"] != dataset.fingerprint:
    raise UserError(
      f"This poison belongs to another dataset: it was made for {manifest['dataset']!r} with "
      f"fingerprint {manifest['fingerprint'][:12]}, but {dataset.name!r} has "
      f"{dataset.fingerprint[:12]}; use the same images, order and data settings, or generate a "
      "poison for these."
    )


def _sha256(delta: np.ndarray) -> str:
  return hashlib.sha256(np.ascontiguousarray(delta).data).hexdigest()


def _max_abs(delta: np.ndarray) -> int:
  """Returns the largest |delta|; abs(-128) does not fit into int8."""
  return max(int(delta.max()), -int(delta.min()))


def _excess(delta: np.ndarray, epsilon: float, norm: str) -> str | None:
  """Says in words how a delta exceeds its budget; returns None if it does not."""
  reached, limit = _max_abs(delta), budget.largest_change(epsilon, norm)
  if reached > limit:
    return f"reaches {reached}/255 but its budget is {limit}/255"
  blocks = budget.blocks(delta.shape)
  if norm == "l2" and any(budget.exceeds(delta[block], epsilon, norm).any() for block in blocks):
    return f"has an image whose root mean square change exceeds {255 * epsilon:.4g}/255"
  return None


def _mean_ssim(images: Images, delta: np.ndarray, changed: np.ndarray) -> float | None:
  if not len(changed):
    return None
  places = np.linspace(0, len(changed) - 1, min(_SSIM_IMAGES, len(changed)))
  chosen = changed[places.round().astype(int)]
  clean = images[chosen]
  return quality.ssim(clean, _shifted(chosen, clean, delta[chosen], 1))
