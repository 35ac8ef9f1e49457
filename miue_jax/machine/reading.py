"""Opens files and lists folders that are not trusted.

Only regular files are opened, so that a named pipe or a device cannot block the program.
"""

import contextlib
import hashlib
import os
import pathlib
import re
import stat
from collections.abc import Generator, Iterator
from typing import BinaryIO, NamedTuple

from miue_jax.machine import files
from miue_jax.settings.errors import UserError


@contextlib.contextmanager
def opened(path: files.Path, limit: int | None = None) -> Generator[BinaryIO]:
  """Opens a regular file for reading.

  Args:
    path: The file, or a link to one.
    limit: The largest size in bytes that is expected; None for any size.

  Raises:
    UserError: There is no such file, it is not a regular file, or it is too large; or the block
      raised an OSError.
  """
  with files.reported("read", path):
    # A device is not even opened, since some act when they are.
    _require_regular(path, os.stat(path))
    with open(
      os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb"
    ) as file:
      found = os.fstat(file.fileno())
      _require_regular(path, found)
      if limit is not None and found.st_size > limit:
        _refuse_size(path, found.st_size, limit)
      yield file


def _require_regular(path: files.Path, found: os.stat_result) -> None:
  name = files.KINDS.get(stat.S_IFMT(found.st_mode), "special file")
  if name != "file":
    raise UserError(f"Cannot read {files.shown(path)}: it is a {name}; name a regular file.")


def _refuse_size(path: files.Path, size: int, limit: int) -> None:
  raise UserError(
    f"Cannot read {files.shown(path)}: it has {size:,} bytes, more than the {limit:,} that such a "
    "file can need; it is not the file that was meant."
  )


def read_bytes(path: files.Path, limit: int) -> bytes:
  """Returns the content of a regular file of at most `limit` bytes.

  Raises:
    UserError: The file cannot be read or is larger.
  """
  with opened(path, limit) as file:
    content = file.read(limit + 1)  # files of /proc do not state their size
  if len(content) > limit:
    _refuse_size(path, len(content), limit)
  return content


class Entry(NamedTuple):
  """One name in a folder.

  Attributes:
    name: The name.
    path: The path of the folder, and the name.
    kind: What the name stands for, as `kind` calls it; "broken link" for a link to nothing or to
      itself.
    link: Whether the name is a link.
  """

  name: str
  path: str
  kind: str
  link: bool


def entries(folder: files.Path) -> list[Entry]:
  """Returns the content of a folder, sorted by name, also names that start with a dot.

  Raises:
    UserError: The folder cannot be listed.
  """
  with files.reported("list", folder), os.scandir(folder) as found:
    return sorted(map(_entry, found))


def _entry(entry: os.DirEntry) -> Entry:
  link = entry.is_symlink()
  try:
    if link or not (entry.is_dir() or entry.is_file()):
      name = files.KINDS.get(stat.S_IFMT(entry.stat().st_mode), "special file")
    else:
      name = "folder" if entry.is_dir() else "file"  # known from the list, without a look-up
  except OSError:
    name = "broken link" if link else "special file"
  return Entry(entry.name, entry.path, name, link)


def files_below(folder: files.Path, suffix: str) -> Iterator[pathlib.Path]:
  """Lists the regular files below a folder whose names end with `suffix`, but no hidden ones.

  Links to folders are followed once.

  Raises:
    UserError: A folder cannot be listed, or such a name does not stand for a regular file.
  """
  pending, seen = [os.fspath(folder)], set()
  while pending:
    parent = pending.pop()
    with files.reported("list", parent):
      found = os.stat(parent)
    if (found.st_dev, found.st_ino) in seen:
      continue
    seen.add((found.st_dev, found.st_ino))
    for entry in entries(parent):
      if entry.name.startswith("."):
        continue
      if entry.kind == "folder":
        pending.append(entry.path)
      elif entry.name.endswith(suffix):
        if entry.kind != "file":
          raise UserError(f"{files.shown(entry.path)} is a {entry.kind}: remove it.")
        yield pathlib.Path(entry.path)


def fingerprint(folder: files.Path, suffix: str) -> str:
  """Returns a fingerprint of the names and contents of the files that `files_below` lists."""
  digest = hashlib.sha256()
  for path in sorted(files_below(folder, suffix)):
    digest.update(os.fsencode(path.relative_to(folder)))
    with opened(path) as file:
      digest.update(hashlib.sha256(file.read()).digest())
  return digest.hexdigest()[:8]


def require_local(path: files.Path, name: str) -> None:
  """Checks that a path is one of this machine, because others would become odd local folders.

  Args:
    path: The path.
    name: Name in the message, such as "--workdir=gs://b/x".

  Raises:
    UserError: It is empty, which pathlib takes for the current folder, or no path; it is an address
      such as `gs://bucket/x`, or starts with a `~` that the shell did not replace.
  """
  if not isinstance(path, str | os.PathLike) or not (text := os.fspath(path)):
    raise UserError(f"{name} is no path: name a folder.")
  if re.match("[A-Za-z][A-Za-z0-9+.-]+:/", text):  # pathlib merges the slashes
    raise UserError(f"{name} is an address: mount the storage, and name its folder.")
  if text.startswith("~"):
    raise UserError(
      f"{name} starts with ~, which the shell replaces only after a space: write the whole path."
    )


def require_plain(root: pathlib.Path, names: tuple[str, ...], unlisted: tuple[str, ...]) -> None:
  """Checks that some names in a folder, and everything below them, are files and folders.

  A program that writes through a link changes something elsewhere.

  Args:
    root: The folder, which may be a link.
    names: Names in it; those that do not exist are not checked.
    unlisted: Those of `names` whose content is not checked.

  Raises:
    UserError: There is a link, a named pipe, a socket or a device.
  """
  pending = [root]
  while pending:
    folder = pending.pop()
    for entry in entries(folder):
      if folder == root and entry.name not in names:
        continue
      if entry.link or entry.kind not in ("file", "folder"):
        raise UserError(
          f"{files.shown(entry.path)} is a {'link' if entry.link else entry.kind}, which a workdir "
          "cannot hold: remove it, or put the file itself there."
        )
      if entry.kind == "folder" and not (folder == root and entry.name in unlisted):
        pending.append(folder / entry.name)
