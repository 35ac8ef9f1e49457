"""Writes text to the terminal: escapes what could change it and reports what it cannot take."""

import errno
import logging
import os
import re
import sys
from collections.abc import Iterable
from typing import NoReturn, TextIO

from miue_jax.settings.errors import UserError, escaped, one_line

_BROKEN_PIPE = 128 + 13  # status of a program that SIGPIPE ends
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?")


def printable(text: str) -> str:
  """Returns text with escapes for all characters that do not print, except for newlines."""
  return "\n".join(map(escaped, text.split("\n")))


def counted(number: int, noun: str) -> str:
  """Returns a number and its noun: "1 file", "2 files"; a noun in -s takes -es."""
  if number == 1:
    return f"1 {noun}"
  return f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
  """Returns the names that belong to each phrase.

  Phrases that differ only in their numbers become one, with ranges: "the first of 2 to 9 frames".

  Args:
    pairs: Phrases with names.
  """
  groups: dict[str, list[tuple[str, str]]] = {}
  for phrase, name in pairs:
    groups.setdefault(_NUMBER.sub("0", phrase), []).append((phrase, name))
  return {_ranged(group): [name for _, name in group] for group in groups.values()}


def _ranged(pairs: list[tuple[str, str]]) -> str:
  numbers = (_NUMBER.findall(phrase) for phrase, _ in pairs)
  columns: list[tuple[str, ...]] = list(zip(*numbers, strict=True))
  ends = [(min(column, key=float), max(column, key=float)) for column in columns]
  texts = iter([low if low == high else f"{low} to {high}" for low, high in ends])
  return _NUMBER.sub(lambda _: next(texts), pairs[0][0])


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
