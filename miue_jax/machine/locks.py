"""Provides locks: one program at a time works in a folder, or on a part of a table.

The operating system releases a lock when its program ends, in whatever way. A network file system
without locks (`flock`) gets a marker instead, a file that names host and process. The marker of a
program that was killed is ignored on the same host, and must be deleted on another one. On a file
system that refuses both, and in a folder that cannot be written, programs run without a lock.
"""

import contextlib
import datetime
import errno
import hashlib
import os
import pathlib
import socket
import warnings
from collections.abc import Generator

from miue_jax.machine import documents, files, processes
from miue_jax.settings.errors import UserError

FOLDER = ".locks"  # in a workdir

_WAIT_SECONDS = 0.2  # between two attempts
_NO_LOCKS = {
  errno.EROFS,
  errno.EACCES,
  errno.EPERM,
  errno.ENOSYS,
  errno.ENOTSUP,
  errno.ENOLCK,
  errno.EINVAL,
}


class Locks:
  """Locks on named pieces of work, each a file in a shared folder."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder

  @contextlib.contextmanager
  def hold(self, *names: str | int, wait: bool) -> Generator[bool]:
    """Locks a piece of work during the block; yields True if this program holds the lock.

    Args:
      *names: Parts of the name of the piece of work.
      wait: Whether to wait until the lock is free. If False, the block runs without the lock when
        another program holds it, and False is yielded.

    Raises:
      UserError: The folder of the lock files cannot be written to.
    """
    name = hashlib.sha256(repr(names).encode()).hexdigest()[:16]
    path = self._folder / f"{name}.lock"
    with contextlib.ExitStack() as stack:
      yield processes.from_lead(lambda: stack.enter_context(_held(path, wait=wait, make=True)))


def waited_for(path: pathlib.Path) -> contextlib.AbstractContextManager[bool]:
  """Holds the lock of a file during the block, for this process alone.

  Raises:
    UserError: The folder of the locks cannot be written.
  """
  return _held(path.parent / FOLDER / f"{path.name}.lock", wait=True)


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Generator[None]:
  """Keeps other programs that ask for the same folder out of it during the block.

  Raises:
    UserError: Another program is there. The message names it.
  """
  place = folder / FOLDER
  holder = place / "holder.json"
  with Locks(place).hold("alone", wait=False) as held:
    if not held:
      raise UserError(
        f"{folder} is in use by another program{processes.from_lead(lambda: _described(holder))}: "
        "wait for it, stop it, or choose another --workdir."
      )
    processes.from_lead(lambda: _sign(holder))
    yield


@contextlib.contextmanager
def _held(path: pathlib.Path, *, wait: bool, make: bool = False) -> Generator[bool]:
  """Yields whether this program may go on; `make` makes all folders above the lock file."""
  import filelock  # It takes a third of a second, which --help should not cost.

  lock, held = filelock.FileLock(path, thread_local=False, poll_interval=_WAIT_SECONDS), True
  with files.reported("write", path), warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about the marker
    try:
      path.parent.mkdir(parents=make, exist_ok=True)
      lock.acquire(timeout=-1 if wait else 0)
    except filelock.Timeout:
      held = False
    except NotImplementedError:
      pass  # There are no locks here.
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise
  try:
    yield held
  finally:
    lock.release()  # It does nothing where the lock is not held.


def _sign(holder: pathlib.Path) -> None:
  """Writes who holds the lock, for the message of others; without it they know less."""
  now = datetime.datetime.now().astimezone()
  content = {
    "host": socket.gethostname(),
    "process": os.getpid(),
    "since": now.isoformat(" ", "seconds"),
  }
  with contextlib.suppress(UserError):
    files.write_json(holder, content)


def _described(holder: pathlib.Path) -> str:
  try:
    found = documents.read_json(holder)
  except UserError:
    return ""  # It has just started.
  host, process, since = (str(found.get(key, "?"))[:64] for key in ("host", "process", "since"))
  return f" (process {process} on {host}, since {since})"
