"""Restores the PNGs of an export by their pixels, whatever they are called and however many remain.

The export leaves `published.npz` in the folder of the poison: for every image the digest of its
published pixels, its path, label and class. Names and classes are therefore bound to pixels by the
key, not by the index, which anyone can change.
"""

import hashlib
import io
import logging
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from miue_jax.artefact.poison import Poison
from miue_jax.machine import archives, files, threads
from miue_jax.pictures import decode, entries
from miue_jax.pictures.key import digest
from miue_jax.pictures.names import is_plain
from miue_jax.pictures.publish import all_published
from miue_jax.settings.errors import UserError

NAME = "published.npz"
_NAMED = 20  # files that a message names

logger = logging.getLogger(__name__)


class Row(NamedTuple):
  """Describes one image in an index."""

  path: str  # relative to the export, with "/"
  label: int
  class_name: str
  sha256: str  # of the file, in hexadecimal, as `sha256sum` prints it


def encode(image: np.ndarray) -> bytes:
  """Returns an image uint8 `[H, W, 1 or 3]` as a PNG without metadata."""
  buffer = io.BytesIO()
  decode.as_image(image).save(buffer, "PNG")
  return buffer.getvalue()


def remember(
  key: str | os.PathLike,
  poison: Poison,
  digests: Sequence[bytes],
  rows: Sequence[Row],
  class_names: Sequence[str],
) -> None:
  """Writes the digests, paths, labels and classes of an export into the folder of its poison.

  Raises:
    UserError: The file cannot be written.
  """
  arrays = {
    "digests": np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
    "paths": np.array([row.path for row in rows]),
    "labels": np.array([row.label for row in rows], np.int32),
    "class_names": np.array(class_names),
    "delta_sha256": np.array(poison.manifest["delta_sha256"]),
  }
  with files.replacing(pathlib.Path(key) / NAME, private=True) as file:
    np.savez(file, **arrays)  # pyrefly: ignore[bad-argument-type]


def recall(key: str | os.PathLike, poison: Poison) -> Mapping[str, np.ndarray] | None:
  """Opens what `remember` wrote, which is not trusted; None if there is nothing of this poison.

  Raises:
    UserError: The file is damaged.
  """
  path = pathlib.Path(key) / NAME
  if not files.exists(path):
    return None
  known = archives.Archive(path, "export the images again")
  made_for = known.get("delta_sha256")
  return known if str(made_for) == poison.manifest["delta_sha256"] else None


def restore(
  directory: pathlib.Path, poison: Poison, known: Mapping[str, np.ndarray], folder: pathlib.Path
) -> tuple[list[Row], int]:
  """Restores every file of a folder that the poison knows, and logs the others by name.

  Args:
    directory: Folder with exported PNGs, under any names.
    poison: The poison.
    known: What `recall` returned.
    folder: New folder, which receives the clean images.

  Returns:
    A row for each restored image, in the order of the dataset, and the number of files that were
    not restored.

  Raises:
    UserError: Nothing was restored, or `known` is damaged.
  """
  rows, marks = _checked(poison, known)
  by_mark: dict[bytes, list[int]] = {}
  for index, mark in enumerate(marks):
    by_mark.setdefault(mark, []).append(index)
  free = {mark: list(indices) for mark, indices in by_mark.items()}
  shape, refused, restored = poison.delta.shape[1:], [], {}
  paths = all_published(directory)
  results = threads.each(lambda path: _read(directory / path, path, shape), paths)
  for path, result in zip(paths, results, strict=True):
    if isinstance(result, str):
      refused.append(f"{path}: {result}")
    elif (mark := digest(result)) not in by_mark:
      refused.append(f"{path}: altered, or not made with this poison")
    else:
      left = free[mark]
      same = [index for index in left if rows[index].path == path]
      index = (same or left or by_mark[mark])[0]
      if index in left:
        left.remove(index)
      single = Poison(poison.delta[index : index + 1], poison.manifest)
      content = encode(single.restore(result[None])[0])
      target = folder / rows[index].path
      files.make_folder(target.parent)
      with files.replacing(target) as file:
        file.write(content)
      restored[index] = rows[index]._replace(sha256=hashlib.sha256(content).hexdigest())
  missing = [rows[index].path for index in range(len(rows)) if index not in restored]
  if not restored:
    raise UserError(
      f"No file of {directory} was made with this poison: give the poison that made this export, "
      "or the exported files as they were."
    )
  _log("cannot be restored", refused)
  _log("were not found", missing)
  return [restored[index] for index in sorted(restored)], len(refused)


def _log(what: str, names: Sequence[str]) -> None:
  if names:
    logger.warning("%d files %s:", len(names), what)
    for name in names[:_NAMED]:
      logger.warning("  %s", files.shown(name))
    if len(names) > _NAMED:
      logger.warning("  and %d more", len(names) - _NAMED)


def _read(path: pathlib.Path, name: str, shape: tuple[int, ...]) -> np.ndarray | str:
  """Returns the pixels of a file, or why they cannot be those of an export."""
  try:
    found = decode.header(path, name)
    if {found.height, found.width} != set(shape[:2]):
      return f"{found.width} x {found.height} pixels instead of {shape[1]} x {shape[0]}"
    channels = decode.read(path, name).channels
  except UserError as error:
    return str(error).removeprefix(name).strip()
  try:
    return entries.expanded(channels, shape[-1], 8).reshape(shape)
  except ValueError as error:
    return str(error)


def _checked(poison: Poison, known: Mapping[str, np.ndarray]) -> tuple[list[Row], list[bytes]]:
  """Returns the rows and digests of all images, after checks."""
  count = len(poison.delta)
  problem = UserError(f"{NAME} in the folder of the poison is damaged: export the images again.")
  try:
    marks, labels, names = known["digests"], known["labels"], known["class_names"]
    paths = known["paths"]
  except KeyError as error:
    raise problem from error
  if (
    (marks.dtype, marks.shape) != (np.uint8, (count, 32))
    or (labels.dtype, labels.shape) != (np.int32, (count,))
    or (paths.dtype.kind, paths.shape) != ("U", (count,))
    or (names.dtype.kind, names.ndim) != ("U", 1)
    or not 0 <= labels.min() <= labels.max() < len(names)
    or not all(is_plain(path) and re.fullmatch(r"train/.+\.png", path) for path in paths.tolist())
    or len(set(paths.tolist())) != count
  ):
    raise problem
  rows = [
    Row(path, label, str(names[label]), "")
    for path, label in zip(paths.tolist(), labels.tolist(), strict=True)
  ]
  return rows, [mark.tobytes() for mark in marks]
