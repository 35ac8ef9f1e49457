"""Writes files completely or not at all, and reports errors of the system.

This module, `reading`, `archives` (arrays) and `documents` (JSON and CSV) are the only ones of the
package that touch paths that a user names or that lie in a workdir; a test checks this. Every error
of the system becomes a `UserError` that names the path, the reason and what to do.
"""

import contextlib
import errno
import functools
import json
import os
import pathlib
import shutil
import stat
import tempfile
from collections.abc import Generator, Mapping
from typing import Any, BinaryIO

from miue_jax.machine import exits, leftovers
from miue_jax.settings.errors import UserError, one_line

Path = str | os.PathLike

MEBIBYTE = 1 << 20
LONGEST = 1024 * MEBIBYTE  # bytes of a file of lines

_LONG = 500  # characters of a path in a message
_SPACE = "free some space or choose another folder"
_ADVICE = {
  errno.ENOSPC: _SPACE,
  errno.EDQUOT: _SPACE,
  errno.EROFS: "choose a folder that is not read-only",
  errno.EACCES: "choose another path or change its permissions",
  errno.EPERM: "choose another path or change its permissions",
  errno.ELOOP: "it is a link, or behind a link, that leads to itself: name the file itself",
  errno.EEXIST: "name a folder",
  errno.ENOTDIR: "a part of the path is a file: correct the path",
  errno.ENOENT: "correct the path",
  errno.ENAMETOOLONG: "choose a shorter name",
  errno.EMFILE: "raise the limit of open files (ulimit -n)",
  errno.ENFILE: "raise the limit of open files (ulimit -n)",
}
KINDS = {
  stat.S_IFREG: "file",
  stat.S_IFDIR: "folder",
  stat.S_IFLNK: "link",
  stat.S_IFIFO: "named pipe",
  stat.S_IFSOCK: "socket",
  stat.S_IFCHR: "device",
  stat.S_IFBLK: "device",
}


def shown(path: Path) -> str:
  """Returns a path, or another text from a file, as one line of moderate length for messages."""
  text = one_line(os.fsdecode(path))
  return text if len(text) <= _LONG else f"{text[: _LONG // 2]}...{text[-_LONG // 2 :]}"


def member(name: str, content: str) -> property:
  """Returns a property for the path `root / name`; `content` documents it."""
  return property(lambda self: self.root / name, doc=content)


@contextlib.contextmanager
def reported(action: str, path: Path) -> Generator[None]:
  """Turns an OSError of the block into a UserError that names `path`, the reason and a solution.

  Raises:
    UserError: The block raised an OSError, or no file system can have a file with such a path.
  """
  try:
    impossible = "\0" in os.fsdecode(os.fsencode(path))
  except UnicodeEncodeError:
    impossible = True
  if impossible:
    raise UserError(
      f"Cannot {action} {shown(path)}: a path cannot have such a character; correct the path."
    )
  try:
    yield
  except OSError as error:
    advice = _ADVICE.get(error.errno or 0, "check the path and the disk")
    reason = error.strerror or error
    raise UserError(f"Cannot {action} {shown(path)}: {reason}; {advice}.") from error


def kind(path: Path, *, follow: bool = True) -> str | None:
  """Returns "file", "folder", "named pipe", "socket" or "device"; None if there is nothing.

  Args:
    path: The path.
    follow: Whether a link stands for what it leads to; otherwise its kind is "link".

  Raises:
    UserError: The path cannot be looked up.
  """
  try:
    with reported("read", path):
      mode = os.stat(path, follow_symlinks=follow).st_mode
  except UserError as error:
    if isinstance(error.__cause__, FileNotFoundError):
      return None
    raise
  return KINDS.get(stat.S_IFMT(mode), "special file")


def resolved(path: Path) -> pathlib.Path:
  """Returns the absolute path that a path leads to; links that cannot be followed stay in it.

  Raises:
    UserError: A link cannot be read.
  """
  with reported("read", path):
    return pathlib.Path(os.path.realpath(path))


def exists(path: Path) -> bool:
  """Returns whether there is anything at a path, also a link that leads nowhere."""
  return kind(path, follow=False) is not None


def is_file(path: Path) -> bool:
  """Returns whether a path leads to a regular file."""
  return kind(path) == "file"


def is_folder(path: Path) -> bool:
  """Returns whether a path leads to a folder."""
  return kind(path) == "folder"


def make_folder(path: Path) -> None:
  """Makes a folder, and those above it, unless it exists.

  Raises:
    UserError: It cannot be made.
  """
  with reported("write", path):
    os.makedirs(path, exist_ok=True)


def remove(path: Path) -> None:
  """Removes a file, if there is one.

  Raises:
    UserError: It cannot be removed.
  """
  with reported("write", path), contextlib.suppress(FileNotFoundError):
    os.unlink(path)


def require_new(path: Path) -> None:
  """Checks that the file `--output` can be written, before the work whose result it will hold.

  Raises:
    UserError: The path exists, its folder does not, or the folder cannot be written.
  """
  if exists(path):
    raise UserError(f"{shown(path)} exists: choose another --output.")
  folder = os.path.dirname(path) or "."
  if not is_folder(folder):
    raise UserError(
      f"There is no folder {shown(folder)} for --output: make it, or correct the path."
    )
  with reported("write", path), tempfile.TemporaryFile(dir=folder):
    pass


def require_space(folder: Path, size: int) -> None:
  """Checks that a path, which need not exist yet, can be written, with room for `size` bytes.

  Raises:
    UserError: A folder on the way cannot be written, or its disk has less room.
  """
  wanted = pathlib.Path(folder).absolute()
  with reported("write", folder):
    there = next(path for path in (wanted, *wanted.parents) if path.exists())
    tempfile.TemporaryFile(dir=there).close()
    free = shutil.disk_usage(there).free
  if free < size:
    raise UserError(
      f"The disk of {shown(folder)} has room for {free:,} bytes, and the results take {size:,} or "
      f"more: {_SPACE}."
    )


def open_to_append(path: Path) -> BinaryIO:
  """Returns a regular file for reading and for writes at its end; makes it if it is missing.

  Raises:
    UserError: The path is a link or no regular file, or it cannot be opened.
  """
  flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
  _require_own(path)
  with reported("write", path):
    file = open(os.open(path, flags, 0o666), "ab+")  # noqa: SIM115 (the caller closes it)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
      file.close()
      raise UserError(f"Cannot write {shown(path)}: it is not a regular file; remove it.")
    return file


def _require_own(path: Path) -> None:
  """Raises a UserError if a path stands for anything but a regular file that it can replace."""
  if (found := kind(path, follow=False)) not in (None, "file"):
    raise UserError(f"Cannot write {shown(path)}: it is a {found}; remove it.")


def append_line(path: Path, line: bytes) -> None:
  """Adds a line to a file; it is on the disk when this returns.

  Text after the last newline, which a killed program left incomplete, is removed first.

  Raises:
    UserError: The file cannot be written.
  """
  with reported("write", path), open_to_append(path) as file:
    end = file.seek(0, os.SEEK_END)
    if end > LONGEST:
      raise UserError(f"{shown(path)} has {end:,} bytes, more than its lines can: remove it.")
    while end:
      start = max(0, end - MEBIBYTE)
      file.seek(start)
      newline = file.read(end - start).rfind(b"\n")
      if newline >= 0:
        end = start + newline + 1
        break
      end = start
    file.truncate(end)
    file.write(line + b"\n")
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path, *, private: bool = False) -> Generator[BinaryIO]:
  """Yields a binary file that becomes `path` if the block succeeds, and is deleted otherwise.

  The content is forced to the disk before the file gets its name. A crash or a power cut
  therefore leaves either the old file or the new one.

  Args:
    path: The file.
    private: Whether only the owner can read the file, whatever the umask says.

  Raises:
    UserError: The file cannot be written.
  """
  path = pathlib.Path(path)
  _require_own(path)
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  with reported("write", path):
    try:
      with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)  # of a program that was killed and had the same number
      opened = functools.partial(os.open, mode=0o600 if private else 0o666)
      # "x" never writes through a link.
      with exits.temporary(temporary), open(temporary, "xb", opener=opened) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, path)
      _sync_folder(path.parent)
    finally:
      with contextlib.suppress(OSError):  # The first error is the one to report.
        os.unlink(temporary)


@contextlib.contextmanager
def new_directory(path: Path) -> Generator[pathlib.Path]:
  """Yields an empty folder that becomes `path` if the block succeeds, and is deleted otherwise.

  Its files are not forced to the disk: for a million small files that would take hours. A power
  cut soon after the block can therefore damage them.

  Raises:
    UserError: `path` exists and is not an empty folder, or the folder cannot be written.
  """
  path = pathlib.Path(path).absolute()  # "." has no name
  with reported("write", path):
    found = kind(path, follow=False)
    if found not in (None, "folder") or os.path.ismount(path):
      raise UserError(f"{shown(path)} is a link, a mount point or a file: choose a new folder.")
    if found and any(path.iterdir()):
      raise UserError(f"{shown(path)} is not empty: choose another folder or remove it.")
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


def write_json(path: Path, content: dict[str, Any]) -> None:
  """Writes a JSON object, completely or not at all.

  Raises:
    UserError: The file cannot be written.
  """
  with replacing(path) as file:
    file.write(json.dumps(content, indent=2).encode())


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
  """Writes files of text into a folder, which is made if it is missing.

  All new files are complete before the first old one is replaced.

  Args:
    folder: The folder.
    texts: Content by name. What UTF-8 cannot hold, such as half of a character, is escaped.

  Raises:
    UserError: The files cannot be written.
  """
  make_folder(folder)
  with contextlib.ExitStack() as stack:
    for name, text in texts.items():
      file = stack.enter_context(replacing(pathlib.Path(folder) / name))
      file.write(text.encode(errors="backslashreplace"))
      file.flush()
