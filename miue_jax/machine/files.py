"""Writing so that a name on the disk always means complete content."""

import contextlib
import errno
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from miue_jax.settings.errors import UserError

_ADVICE = {
  errno.ENOSPC: "free some space or choose another folder",
  errno.EDQUOT: "free some space or choose another folder",
  errno.EROFS: "choose a folder that is not read-only",
  errno.EACCES: "choose another folder or change its permissions",
  errno.EPERM: "choose another folder or change its permissions",
}


@contextlib.contextmanager
def reported(action: str, path: str | os.PathLike) -> Iterator[None]:
  """Turns an OSError of the block into a UserError that names `path`, the reason and a way out."""
  try:
    yield
  except OSError as error:
    advice = _ADVICE.get(error.errno, "check the path and the disk")
    raise UserError(f"Cannot {action} {path}: {error.strerror or error}; {advice}.") from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
  """Yields a binary file that becomes `path` when the block ends well, and vanishes otherwise.

  The content is on the disk before it gets its name, so a crash or a power cut leaves either the
  old file or the new one.

  Raises:
    UserError: the disk is full, read-only or not ours.
  """
  path = pathlib.Path(path)
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  with reported("write", path):
    try:
      with open(temporary, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, path)
      _sync_folder(path.parent)
    finally:
      temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_directory(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields an empty folder that becomes `path` when the block ends well, and vanishes otherwise.

  What is written into it needs no care of its own, except against a power cut right afterwards:
  forcing each of a million small files to the disk would take hours.

  Raises:
    UserError: `path` exists and is not an empty folder; the disk is full, read-only or not ours.
  """
  path = pathlib.Path(path).absolute()  # "." has no name
  with reported("write", path):
    if path.is_symlink() or path.is_mount() or path.is_file():
      raise UserError(f"{path} is a link, a mount point or a file: choose a new folder.")
    if path.is_dir() and any(path.iterdir()):
      raise UserError(f"{path} is not empty: choose another folder or remove it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    # The folder sits inside a private one: it gets the user's usual permissions, not 0700.
    with tempfile.TemporaryDirectory(
      prefix=f".{path.name}-", dir=path.parent, ignore_cleanup_errors=True
    ) as private:
      folder = pathlib.Path(private) / "new"
      folder.mkdir()
      yield folder
      os.replace(folder, path)
    _sync_folder(path.parent)


def _sync_folder(path: pathlib.Path) -> None:
  folder = os.open(path, os.O_RDONLY)
  try:
    os.fsync(folder)
  finally:
    os.close(folder)
