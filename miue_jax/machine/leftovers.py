"""Removes what programs that were killed left behind."""

import contextlib
import os
import pathlib
import re
import shutil
import socket
from collections.abc import Collection, Generator

from miue_jax.machine import exits

_REPLACED = re.compile(r"\..+\.[0-9]+")  # `files.replacing`: .config.json.PID
_HOST = re.sub("[^A-Za-z0-9_]", "_", socket.gethostname())[:40]
_OLD = "old"


@contextlib.contextmanager
def private_folder(path: pathlib.Path) -> Generator[pathlib.Path]:
  """Yields a new folder next to `path` that only this user can read; it is removed at the end.

  Folders for the same path that programs of this host left when they were killed are removed.

  Raises:
    OSError: The folder cannot be made.
  """
  prefix = f".{path.name[:100]}-{_HOST}-"
  for name in os.listdir(path.parent):
    number = name.removeprefix(prefix)
    if name.startswith(prefix) and number.isdecimal() and not _runs(int(number)):
      shutil.rmtree(path.parent / name, ignore_errors=True)
  folder = path.with_name(f"{prefix}{os.getpid()}")
  with exits.temporary(folder):
    shutil.rmtree(folder, ignore_errors=True)  # of a program that was killed, with this number
    folder.mkdir(0o700)
    try:
      yield folder
    finally:
      shutil.rmtree(folder, ignore_errors=True)


def _runs(process: int) -> bool:
  if process == os.getpid():
    return True
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return False
  except (OSError, OverflowError):
    pass  # It belongs to another user.
  return True


def is_half(name: str, suffixes: Collection[str], *, shared: bool) -> bool:
  """Returns whether a file is a temporary one of `files.replacing`, for a file with such a suffix.

  Args:
    name: Name of the file.
    suffixes: Suffixes in lower case, with their dots.
    shared: Whether to return False for files of programs that still run on this host.
  """
  stem, _, number = name.rpartition(".")
  if not _REPLACED.fullmatch(name) or os.path.splitext(stem)[1].lower() not in suffixes:
    return False
  return not (shared and _runs(int(number)))


@contextlib.contextmanager
def set_aside(path: pathlib.Path) -> Generator[None]:
  """Moves a folder away during the block; it comes back if the block fails.

  Raises:
    OSError: The folder cannot be moved.
  """
  old = path.with_name(f".{path.name}-{_OLD}")
  moved = path.is_dir() and not path.is_symlink() and any(path.iterdir())
  if moved:
    shutil.rmtree(old, ignore_errors=True)
    path.rename(old)
  try:
    yield
  except BaseException:
    if moved:
      with contextlib.suppress(OSError):
        path.rmdir()
      old.rename(path)
    raise
  if moved:
    shutil.rmtree(old, ignore_errors=True)


def sweep(root: pathlib.Path, folders: tuple[str, ...], shallow: tuple[str, ...]) -> None:
  """Removes leftovers from a folder in which no other program works.

  Args:
    root: The folder.
    folders: Names of folders in it that programs fill and then rename.
    shallow: Names of folders in it whose content others write.
  """
  for name in folders:
    old = root / f".{name}-{_OLD}"
    if old.is_dir() and not (root / name).exists():
      with contextlib.suppress(OSError):
        old.rename(root / name)
  for place, below, names in os.walk(root):
    top = pathlib.Path(place) == root
    for name in names:
      if _REPLACED.fullmatch(name):
        with contextlib.suppress(OSError):
          os.unlink(os.path.join(place, name))
    for name in [*below]:
      partial = top and any(name.startswith(f".{folder}-") for folder in folders)
      if partial:
        shutil.rmtree(os.path.join(place, name), ignore_errors=True)
      if partial or (top and name in (*folders, *shallow)):
        below.remove(name)
