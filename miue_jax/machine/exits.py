"""Ends the program on a signal, from its first instruction on.

A signal handler that raises an exception loses signals: where Python ignores exceptions, as in
callbacks of the garbage collector, the program runs on. The handler of this module therefore ends
the process itself. A loop that has something to save takes the signals for its own time, see
`signals.stop_on_signal`.

This module is imported first and therefore imports no library.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Generator
from typing import NoReturn

# Signals that ask the program to stop.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_temporary: set[str] = set()  # files and folders that only this process needs
_program = 0  # number of the process that catches signals; forks have another one
_farewell: Callable[[int], None] | None = None


def catch() -> None:
  """Makes a signal end this program with one line on stderr and status 128 + signal.

  Closed standard streams are opened on `/dev/null`, so that no other file takes their place;
  `terminal` refuses a closed stdout.
  """
  global _program
  _program = os.getpid()
  for number in STOPPING:
    # `nohup` ignores SIGHUP, and a program that it starts must do so as well.
    if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
      signal.signal(number, _leave)
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number, which is this one
  if sys.stdin is None:
    sys.stdin = open(0)  # noqa: SIM115 (as long as the program)
  if sys.stderr is None:
    sys.stderr = open(2, "w")  # noqa: SIM115 (as long as the program)


def _leave(signum: int, frame: object) -> NoReturn:
  del frame
  if os.getpid() != _program:
    os._exit(128 + signum)
  for number in STOPPING:
    signal.signal(number, _end)  # the next signal does not wait for the following lines
  with contextlib.suppress(OSError):
    text = f"{signal.Signals(signum).name}; what was stored is kept: run the same command again."
    os.write(2, f"miue-jax: {text}\n".encode())  # A print may be what the signal interrupted.
  for _ in range(3):  # Threads may still be filling a folder.
    for path in tuple(_temporary):
      _remove(path)
  if _farewell:
    _farewell(signum)
  os._exit(128 + signum)


def _end(signum: int, frame: object) -> NoReturn:
  del frame
  os._exit(128 + signum)


@contextlib.contextmanager
def telling(farewell: Callable[[int], None]) -> Generator[None]:
  """Calls `farewell` with the number of a signal that ends this program during the block."""
  global _farewell
  before, _farewell = _farewell, farewell
  try:
    yield
  finally:
    _farewell = before


@contextlib.contextmanager
def temporary(path: str | os.PathLike) -> Generator[None]:
  """Removes a file or folder if a signal ends this program during the block."""
  name = os.path.abspath(path)
  _temporary.add(name)
  try:
    yield
  finally:
    _temporary.discard(name)


def _remove(path: str) -> None:
  """Removes a file or folder, and ignores errors; links are not followed."""
  for folder, folders, files in os.walk(path, topdown=False):
    for name in files + folders:
      _remove_one(os.path.join(folder, name))
  _remove_one(path)


def _remove_one(path: str) -> None:
  for remove in (os.unlink, os.rmdir):
    with contextlib.suppress(OSError):
      remove(path)
