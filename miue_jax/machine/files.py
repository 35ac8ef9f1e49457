"""Complete writes, and reads of files that are not trusted."""

import contextlib
import errno
import json
import os
import pathlib
import zipfile
from collections.abc import Generator, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from miue_jax.machine import exits, leftovers
from miue_jax.settings.errors import UserError, first_line

_ADVICE = {
  errno.ENOSPC: "free some space or choose another folder",
  errno.EDQUOT: "free some space or choose another folder",
  errno.EROFS: "choose a folder that is not read-only",
  errno.EACCES: "choose another folder or change its permissions",
  errno.EPERM: "choose another folder or change its permissions",
}
_PLAIN_ARRAYS = "write it with numpy.savez from plain arrays, without Python objects"


@contextlib.contextmanager
def reported(action: str, path: str | os.PathLike) -> Generator[None]:
  """Turns an OSError of the block into a UserError that names `path`, the reason and a solution."""
  try:
    yield
  except OSError as error:
    advice = _ADVICE.get(error.errno or 0, "check the path and the disk")
    raise UserError(f"Cannot {action} {path}: {error.strerror or error}; {advice}.") from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Generator[BinaryIO]:
  """Yields a binary file that becomes `path` if the block succeeds, and is deleted otherwise.

  The content is forced to the disk before the file gets its name. A crash or a power cut
  therefore leaves either the old file or the new one.

  Raises:
    UserError: The file cannot be written.
  """
  path = pathlib.Path(path)
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  with reported("write", path):
    try:
      with exits.temporary(temporary), open(temporary, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, path)
      _sync_folder(path.parent)
    finally:
      temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_directory(path: str | os.PathLike) -> Generator[pathlib.Path]:
  """Yields an empty folder that becomes `path` if the block succeeds, and is deleted otherwise.

  Its files are not forced to the disk: for a million small files that would take hours. A power
  cut soon after the block can therefore damage them.

  Raises:
    UserError: `path` exists and is not an empty folder, or the folder cannot be written.
  """
  path = pathlib.Path(path).absolute()  # "." has no name
  with reported("write", path):
    if path.is_symlink() or path.is_mount() or path.is_file():
      raise UserError(f"{path} is a link, a mount point or a file: choose a new folder.")
    if path.is_dir() and any(path.iterdir()):
      raise UserError(f"{path} is not empty: choose another folder or remove it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    # The folder is made inside a private one, so that it gets the usual permissions, not 0700.
    with leftovers.private_folder(path) as private:
      folder = private / "new"
      folder.mkdir()
      yield folder
      os.replace(folder, path)
    _sync_folder(path.parent)


def make_private(path: str | os.PathLike) -> None:
  """Makes a folder that only this user can read, or makes an existing one so.

  Raises:
    UserError: The folder cannot be made.
  """
  with reported("write", path):
    folder = pathlib.Path(path)
    folder.mkdir(0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def _sync_folder(path: pathlib.Path) -> None:
  folder = os.open(path, os.O_RDONLY)
  try:
    os.fsync(folder)
  except OSError as error:
    # Some network file systems cannot do that.
    if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
      raise
  finally:
    os.close(folder)


def write_json(path: str | os.PathLike, content: dict[str, Any]) -> None:
  """Writes a JSON object, completely or not at all.

  Raises:
    UserError: The file cannot be written.
  """
  with replacing(path) as file:
    file.write(json.dumps(content, indent=2).encode())


def read_json(
  path: str | os.PathLike, advice: str = "delete it to make it again"
) -> dict[str, Any]:
  """Reads a JSON object from a file that is not trusted.

  Args:
    path: The file.
    advice: The end of the error message: what to do about a damaged file.

  Raises:
    UserError: The file cannot be read or does not hold one JSON object.
  """
  with reported("read", path):
    text = pathlib.Path(path).read_bytes()
  try:
    content = json.loads(text)
    if not isinstance(content, dict):
      raise ValueError("it does not hold a JSON object")
  except (ValueError, RecursionError) as error:
    raise UserError(f"{path} is damaged ({first_line(error)}): {advice}.") from error
  return content


class Archive(Mapping[str, np.ndarray]):
  """Maps the names of an untrusted .npz file to its arrays; an array is read when it is asked for.

  Pickled objects are never loaded. Every problem becomes a UserError that names the file.
  """

  def __init__(self, path: str | os.PathLike, advice: str = _PLAIN_ARRAYS):
    """Reads the names.

    Args:
      path: The file.
      advice: The end of every error message: what to do about a file that cannot be used.

    Raises:
      UserError: The file cannot be read or is not an .npz file.
    """
    self._path, self._advice = path, advice
    with reported("read", path), open(path, "rb") as file:
      if not zipfile.is_zipfile(file):
        raise UserError(f"{path} is not an .npz file: {advice}.")
    with self._opened() as archive:
      self._names = tuple(archive.files)

  @contextlib.contextmanager
  def _opened(self) -> Generator[Any]:
    # np.load does not close a damaged file that it opens itself.
    with (
      _arrays_of(self._path, self._advice),
      open(self._path, "rb") as file,
      np.load(file, allow_pickle=False) as archive,
    ):
      yield archive

  def __getitem__(self, name: str) -> np.ndarray:
    """Reads one array.

    Raises:
      UserError: The array cannot be read.
    """
    if name not in self._names:
      raise KeyError(name)
    with self._opened() as archive:
      array = archive[name]
      if not isinstance(array, np.ndarray):  # NumPy returns the bytes that it cannot parse.
        raise ValueError(f"{name} is not an array")
      return array

  def __contains__(self, name: object) -> bool:
    return name in self._names

  def __iter__(self) -> Iterator[str]:
    return iter(self._names)

  def __len__(self) -> int:
    return len(self._names)

  def __str__(self) -> str:
    return ", ".join(sorted(self._names)) or "nothing"


def read_npy(path: str | os.PathLike, advice: str) -> np.ndarray:
  """Reads an array from an untrusted .npy file.

  Args:
    path: The file.
    advice: The end of the error message: what to do about a file that cannot be used.

  Raises:
    UserError: The file cannot be read, is not a .npy file or holds pickled objects.
  """
  with _arrays_of(path, advice):
    # A memory map never unpickles. It compares the header with the size of the file before memory
    # is allocated.
    return np.array(np.lib.format.open_memmap(path, mode="r"), order="C")


@contextlib.contextmanager
def _arrays_of(path: str | os.PathLike, advice: str) -> Generator[None]:
  try:
    yield
  except Exception as error:  # A damaged file makes zipfile and NumPy raise any exception.
    raise UserError(f"{path} cannot be read ({first_line(error)}): {advice}.") from error
