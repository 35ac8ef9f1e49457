"""Exports poisoned images, and restores the clean images from an export and its poison.

An export holds one or both of

    index.csv                    path, label, class, sha256 of the file; rows in the dataset's order
    train/<class>/<name>.png     poisoned training images, 8-bit gray or RGB, without metadata

    poisoned.npz                 x_train uint8 [N, H, W, C], y_train int32 [N], class_names [K]

It contains nothing of the key: neither delta nor manifest. Loaders that treat folders as classes
can read `train/`. They number classes by sorted folder name. That agrees with the dataset if its
class names are sorted, or if they are numbers in order: these are padded with zeros, so that "10"
follows "09". Otherwise the loader's labels differ from those in the index.
"""

import csv
import hashlib
import io
import logging
import math
import os
import pathlib
import re
import zipfile
from collections.abc import Iterable, Sequence

import numpy as np

from miue_jax.artefact import by_content
from miue_jax.artefact.by_content import Row
from miue_jax.artefact.poison import Poison
from miue_jax.data import npz, pixels
from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.images import Images
from miue_jax.machine import documents, files, progress, reading
from miue_jax.pictures import decode
from miue_jax.pictures.key import digest
from miue_jax.pictures.names import same
from miue_jax.pictures.publish import all_published
from miue_jax.settings.errors import UserError, inert

FORMATS = ("png", "npz")
_HEADER = ["path", "label", "class", "sha256"]
# A component of a path has at most 255 bytes, and a number and ".png" are added to the name.
_NAME_BYTES = 200

logger = logging.getLogger(__name__)


def export(
  dataset: Dataset,
  poison: Poison,
  directory: str | os.PathLike,
  formats: Sequence[str] = ("png",),
  key: str | os.PathLike | None = None,
) -> pathlib.Path:
  """Writes the poisoned training images, completely or not at all.

  The module's docstring describes the files. Folders and files keep the names of classes and of
  `dataset.train.files`; characters that a file system refuses are replaced. Images without a name
  are numbered in the dataset's order.

  Args:
    dataset: Clean images.
    poison: Poison made for them.
    directory: New or empty folder.
    formats: Any of `FORMATS`.
    key: Folder of the poison; it receives the digests by which `restore` recognises the PNGs.

  Returns:
    `directory`.

  Raises:
    UserError: The poison belongs to another dataset, a format is unknown, the folder is not empty,
      or the files cannot be written.
  """
  if not formats or not set(formats) <= set(FORMATS):
    raise UserError(f"Export formats {list(formats)} are not possible: use {' or '.join(FORMATS)}.")
  poison.check(dataset)
  labels, names = dataset.train.labels, dataset.class_names
  with files.new_directory(directory) as folder:
    images = poison.apply(dataset.train.images)
    if "png" in formats:
      rows = [
        Row(path, label, names[label], "")
        for path, label in zip(paths(dataset), labels.tolist(), strict=True)
      ]
      digests = _write_png(folder, images, rows)
      if key is not None:
        by_content.remember(key, poison, digests, rows, names)
    if "npz" in formats:
      _write_npz(folder / "poisoned.npz", images, labels, names)
  return pathlib.Path(directory)


def read(directory: str | os.PathLike, shape: tuple[int, ...]) -> Split:
  """Reads the PNGs of an export and checks them against its index.

  Args:
    directory: Folder that `export` wrote, with an `index.csv`.
    shape: Shape `(N, H, W, C)` of its images.

  Raises:
    UserError: A file is missing, altered, outside the folder or not of this shape.
  """
  directory = pathlib.Path(directory)
  rows = _read_index(directory / "index.csv", shape[0])
  images = _read_png(directory, rows, shape)
  return Split(Images(images), np.array([row.label for row in rows], np.int32))


def restore(
  directory: str | os.PathLike, poison_directory: str | os.PathLike, output: str | os.PathLike
) -> int:
  """Turns an export and its poison back into the clean images, bit for bit.

  The clean dataset is not needed. PNGs are recognised by their pixels if the poison has their
  digests: files that were renamed, moved or saved again without loss are restored too, and what
  cannot be restored is logged by name. Otherwise the index must be complete, and the fingerprint in
  the manifest proves the result.

  Args:
    directory: Folder that `export` wrote.
    poison_directory: Folder that `Poison.save` wrote.
    output: New or empty folder. It receives the same tree of PNGs with a new index, and `clean.npz`
      for `poisoned.npz`.

  Returns:
    The number of files that were not restored.

  Raises:
    UserError: There is no export, nothing in it belongs to the poison, or the files cannot be
      written. Without digests also: one of its files is missing, altered or outside the folder.
  """
  directory, output = pathlib.Path(directory), pathlib.Path(output)
  index, archive = directory / "index.csv", directory / "poisoned.npz"
  known = files.is_file(pathlib.Path(poison_directory) / by_content.NAME)
  if not files.is_file(index) and not files.is_file(archive) and not known:
    raise UserError(
      f"There is no export in {directory} (neither index.csv nor poisoned.npz): correct the path."
    )
  poison = Poison.load(poison_directory)
  known, refused = by_content.recall(poison_directory, poison), 0
  with files.new_directory(output) as folder:
    if known and all_published(directory):
      rows, refused = by_content.restore(directory, poison, known, folder)
      _write_index(folder, rows)
    elif files.is_file(index):
      rows = _read_index(index, poison.manifest["shape"][0])
      poisoned = read(directory, poison.delta.shape)
      _write_png(folder, _restored(poison, poisoned, index), rows)
    if files.is_file(archive):
      poisoned = npz.read(archive)
      train = Split(poisoned.train.images.loaded(), poisoned.train.labels.astype(np.int32))
      clean = _restored(poison, train, archive)
      _write_npz(folder / "clean.npz", clean, train.labels, poisoned.class_names)
  return refused


def _restored(poison: Poison, split: Split, path: pathlib.Path) -> Images:
  """Returns the clean images, whose fingerprint is checked."""
  clean = poison.restore(split.images)
  restored = Dataset(poison.manifest["dataset"], Split(clean, split.labels), None, ())
  if restored.fingerprint != poison.manifest["fingerprint"]:
    raise UserError(
      f"Images and labels of {path} do not restore to {restored.name!r}: use the poison they were "
      "exported with, and the original index."
    )
  return clean


def paths(dataset: Dataset) -> list[str]:
  """Returns the path of each training image, relative to the export."""
  folders = _distinct(map(_safe, _padded(dataset.class_names)))
  if sorted(folders) != folders:
    logger.info(
      "Class names of %s are not sorted: loaders of folders will number classes differently from "
      "index.csv.",
      dataset.name,
    )
  count = len(dataset.train)
  names = dataset.train.files or [f"{i:0{len(str(count - 1))}d}" for i in range(count)]
  safe = ("/".join(map(_safe, name.split("/"))) for name in names)
  stems = _distinct(
    f"train/{folders[label]}/{name}"
    for label, name in zip(dataset.train.labels.tolist(), safe, strict=True)
  )
  return [f"{stem}.png" for stem in stems]


def _padded(names: Sequence[str]) -> Sequence[str]:
  """Adds leading zeros to numbers in ascending order, so that they also sort as strings."""
  padded = [name.zfill(max(map(len, names))) for name in names]
  numbers = all(re.fullmatch("[0-9]+", name) for name in names)
  return padded if numbers and padded == sorted(padded) else names


def _safe(name: str) -> str:
  """Turns `name` into one component of a path on any common file system."""
  name = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in name)
  name = name.encode()[:_NAME_BYTES].decode(errors="ignore").rstrip(" .")
  return f"_{name[1:]}" if name.startswith(".") else name or "_"


def _distinct(names: Iterable[str]) -> list[str]:
  """Numbers repeated names: `["a", "A"]` -> `["a", "A_2"]`, for file systems that ignore case."""
  taken, result = set(), []
  for name in names:
    candidate, number = name, 1
    while (key := same(candidate)) in taken:
      number += 1
      candidate = f"{name}_{number}"
    taken.add(key)
    result.append(candidate)
  return result


def _write_png(folder: pathlib.Path, images: Images, rows: Sequence[Row]) -> list[bytes]:
  """Writes the images and their index; returns the digests of their pixels.

  The sha256 of `rows` are not used.
  """
  for parent in {pathlib.PurePosixPath(row.path).parent for row in rows}:
    (folder / parent).mkdir(parents=True, exist_ok=True)

  def write(i: int) -> tuple[str, bytes]:
    image = images[i]
    content = by_content.encode(image)
    (folder / rows[i].path).write_bytes(content)
    return hashlib.sha256(content).hexdigest(), digest(image)

  written = list(progress.each_shown(write, range(len(rows)), "wrote"))
  _write_index(
    folder, [row._replace(sha256=sha256) for row, (sha256, _) in zip(rows, written, strict=True)]
  )
  return [mark for _, mark in written]


def _write_index(folder: pathlib.Path, rows: Sequence[Row]) -> None:
  with open(
    folder / "index.csv", "w", encoding="utf-8", errors="surrogateescape", newline=""
  ) as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_HEADER)
    writer.writerows(row._replace(class_name=inert(row.class_name)) for row in rows)


def _write_npz(
  path: pathlib.Path, images: Images, labels: np.ndarray, class_names: Sequence[str]
) -> None:
  """Writes a file like `np.savez_compressed`, but the images in blocks, since they may be lazy."""
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    with archive.open("x_train.npy", "w", force_zip64=True) as file:
      header = {"descr": "|u1", "fortran_order": False, "shape": tuple(map(int, images.shape))}
      np.lib.format.write_array_header_1_0(file, header)
      for _, block in images.blocks():
        file.write(block.tobytes())
    for name, values in (("y_train", labels), ("class_names", np.array(class_names))):
      with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array(file, values, allow_pickle=False)


def _read_index(path: pathlib.Path, count: int) -> list[Row]:
  """Reads an index, which is not trusted and must have `count` rows."""
  lines = documents.read_csv(path, _HEADER, count, "copy the index again")
  rows = [_parsed(path, number, line, count) for number, line in enumerate(lines, 2)]
  if len({row.path for row in rows}) != count:
    raise UserError(f"{path} lists a file twice: copy it again.")
  return rows


def _parsed(path: pathlib.Path, number: int, line: list[str], count: int) -> Row:
  """Checks one line of an index. A dataset has at most as many classes as its `count` images."""
  if (
    len(line) != len(_HEADER)
    or not re.fullmatch("[0-9]{1,9}", line[1])
    or int(line[1]) >= count
    or not re.fullmatch("[0-9a-f]{64}", line[3])
  ):
    raise UserError(f"Row {number} of {path} is damaged: copy the index again.")
  name, label, class_name, sha256 = line
  parts = name.split("/")
  if (
    parts[0] != "train"
    or not name.endswith(".png")
    or any(part in ("", ".", "..") for part in parts)
    or re.search(r"[\\:\0]", name)
  ):
    raise UserError(
      f"Row {number} of {path} names {name!r}, which is not a PNG below train/: copy the index "
      "again."
    )
  return Row(name, int(label), class_name, sha256)


def _read_png(directory: pathlib.Path, rows: Sequence[Row], shape: tuple[int, ...]) -> np.ndarray:
  """Reads and checks every file of an index.

  Returns:
    Images uint8 `[N, H, W, C]`.

  Raises:
    UserError: A file is missing, altered, not an image of this shape, or a link that leaves
      `directory`.
  """
  images = np.empty(shape, np.uint8)
  root = files.resolved(directory)
  largest = 4 * math.prod(shape[1:]) + files.MEBIBYTE  # bytes; a PNG without metadata has fewer

  def read(i: int) -> str | None:
    path = directory / rows[i].path
    if not files.is_file(path):
      return f"{path} is missing"
    if not files.resolved(path).is_relative_to(root):
      return f"{path} is a link that leaves {directory}"
    content = reading.read_bytes(path, largest)
    if hashlib.sha256(content).hexdigest() != rows[i].sha256:
      return f"{path} was altered after the export"
    header = decode.header(io.BytesIO(content), str(path))
    if (found := (header.height, header.width)) != shape[1:3]:
      return f"{path} is {list(found)} pixels instead of {list(shape[1:3])}"
    image = pixels.decode(io.BytesIO(content), str(path), gray=shape[-1] == 1, size=0)
    if image.shape != shape[1:]:
      return f"{path} is {list(image.shape)} instead of {list(shape[1:])}"
    images[i] = image
    return None

  with files.reported("read", directory):
    problems = [
      problem for problem in progress.each_shown(read, range(len(rows)), "read") if problem
    ]
  if problems:
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    raise UserError(f"{problems[0]}{more}: put the exported file back.")
  return images
