"""Protects an archive of images as a folder whose files are its images, in the private folder.

Files are named by their content, so that images may be added, removed and reordered later. The
published archive has the same names, shapes, types and labels as the original one.
"""

import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Callable

import numpy as np

from miue_jax.machine import files, progress, reading
from miue_jax.machine.terminal import counted, say
from miue_jax.owner import archive, private, protect
from miue_jax.owner.load import named
from miue_jax.owner.private import Private
from miue_jax.owner.request import Request, check_new, check_places
from miue_jax.pictures import decode, entries
from miue_jax.pictures.key import digest
from miue_jax.report.verdict import Verdict
from miue_jax.settings.errors import UserError


def protect_archive(request: Request, ask: Callable[[str], None]) -> Verdict:
  """Protects the images of an archive; arguments and errors are those of `protect.protect`.

  The archive is published at the end, completely or not at all.

  Raises:
    UserError: The file is not such an archive, or the folder holds something else.
  """
  check_places(request)
  name = request.photos.name
  of_metadata = request.keep_metadata or request.drop_author
  if request.labels or request.clusters or of_metadata or request.format != "png":
    raise UserError(
      f"{name} has labels, no metadata, and is published as such an archive: leave --labels, "
      "--clusters, --keep-metadata, --drop-author and --format out."
    )
  store = Private(private.path_of(request.out))
  held = [entry.name for entry in reading.entries(store.rows)] if files.exists(store.rows) else []
  if held not in ([], [name]) or (files.exists(request.key_path) and not held):
    raise UserError(f"{request.out} belongs to pictures other than {name}: choose another folder.")
  if not files.exists(request.key_path):
    check_new(request)
  content = archive.read(request.photos)
  paths = {images: _paths(content, images, labels) for images, labels in archive.pairs(content)}
  try:
    files.make_private(store.root)
    files.make_folder(store.published)
    archive.unpack(content, paths, store.rows / name)
    say(f"Messages name images by their files in {store.rows / name}.")
    verdict = protect.protect(dataclasses.replace(request, photos=store.rows / name), ask)
  finally:
    if not files.exists(request.key_path):  # the answer was no, or something stopped it before
      _clear(store)
  changed = dict(content)
  for images, places in paths.items():
    changed[images] = _packed(content[images], places, store.published, name)
  archive.write(request.out / name, changed)
  say(f"The published archive is {request.out / name}.")
  return verdict


def _clear(store: Private) -> None:
  """Removes the copies of the originals, and the folders above them if nothing else is in them."""
  shutil.rmtree(store.rows, ignore_errors=True)
  for folder in (store.published, store.root):
    with contextlib.suppress(OSError):
      folder.rmdir()


def _paths(content: archive.Arrays, images: str, labels: str) -> list[str]:
  """Returns the file of each image: `train/<label>/<content>.png`."""
  part = archive.part_of(images)
  seen: dict[str, int] = {}
  paths = []
  for pixels, label in zip(content[images], content[labels].reshape(-1), strict=True):
    stem = f"{part}/{label}/{digest(archive.channels(pixels)).hex()[:24]}"
    seen[stem] = seen.get(stem, 0) + 1
    paths.append(f"{stem}{f'-{seen[stem]}' if seen[stem] > 1 else ''}.png")
  return paths


def _packed(originals: np.ndarray, paths: list[str], folder: pathlib.Path, name: str) -> np.ndarray:
  """Returns the published images of an array."""
  channels = 3 if originals.ndim == 4 and originals.shape[3] == 3 else 1

  def read(path: str) -> np.ndarray | None:
    with contextlib.suppress(UserError, ValueError):
      return entries.expanded(decode.read(folder / path, path).channels, channels, 8)
    return None

  found = list(progress.each_shown(read, paths, "packing"))
  lost = [path for path, image in zip(paths, found, strict=True) if image is None]
  if lost:
    raise UserError(
      f"{counted(len(lost), 'image')} of {name} could not be published ({named(lost)}), so the "
      "archive is not written: remove them from it, or protect it into another folder."
    )
  rows = [image for image in found if image is not None]
  return np.stack(rows).reshape(originals.shape)
