"""Writes text to the terminal: escapes what could change it and reports what it cannot take."""

import errno
import logging
import os
import sys
from typing import NoReturn, TextIO

from miue_jax.settings.errors import UserError, escaped, one_line

_BROKEN_PIPE = 128 + 13  # status of a program that SIGPIPE ends


def printable(text: str) -> str:
  """Returns text with escapes for all characters that do not print, except for newlines."""
  return "\n".join(map(escaped, text.split("\n")))


def counted(number: int, noun: str) -> str:
  """Returns a number and its noun: "1 file", "2 files"; a noun in -s takes -es."""
  if number == 1:
    return f"1 {noun}"
  return f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


class Formatter(logging.Formatter):
  """Makes the text of a log record printable."""

  def __init__(self, wrapped: logging.Formatter | None):
    """Keeps the formatter that makes the text; None is that of the standard library."""
    super().__init__()
    self._wrapped = wrapped or logging.Formatter()

  def format(self, record: logging.LogRecord) -> str:
    """Returns the printable text of a record."""
    return printable(self._wrapped.format(record))


def require_stdout() -> None:
  """Makes stdout take every character, in escapes where its encoding lacks it.

  Raises:
    UserError: Stdout is closed.
  """
  if sys.stdout is None:
    raise UserError("The standard output is closed: leave it open, or add >/dev/null.")
  if hasattr(sys.stdout, "reconfigure"):
    sys.stdout.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
  """Prints a result, or a line about the work, to stdout.

  Raises:
    UserError: Stdout cannot be written, for example because the disk is full.
    SystemExit: The reader of stdout is gone, which is not an error (`| head -1`).
  """
  try:
    print(printable(text), flush=True)
  except OSError as error:
    _discard(sys.stdout)
    if error.errno == errno.EPIPE:
      sys.exit(_BROKEN_PIPE)
    raise UserError(
      f"The result cannot be printed: {error.strerror}; free some space, or send the standard "
      "output elsewhere."
    ) from error


def fail(message: str) -> NoReturn:
  """Prints a message as one line on stderr and leaves the program with status 2."""
  try:
    print(f"miue-jax: {one_line(message)}", file=sys.stderr, flush=True)
  except OSError:
    _discard(sys.stderr)
  sys.exit(2)


def _discard(stream: TextIO) -> None:
  """Redirects a stream to `/dev/null`, so that Python does not fail again when it flushes it."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
