"""Defines the errors that users read, and shortens the text of other exceptions for them."""

import difflib
import re
from collections.abc import Iterable

_LONGEST = 300  # characters that an exception contributes to a message
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # starts of a formula in a spreadsheet


class UserError(Exception):
  """A problem that the user can solve: a setting, a path, an image, a poison, a checkpoint.

  The message is one sentence that says what is wrong and what to do about it. The command line
  prints it without a traceback and leaves with exit status 2.
  """

  def __init__(self, message: str):
    """Takes the sentence; line breaks and control characters, as in a file's name, are escaped."""
    super().__init__(one_line(message))


class SettingError(UserError):
  """One or more settings with values that are not allowed.

  Attributes:
    problems: Dotted name of each setting, and the rest of its sentence.
  """

  def __init__(self, *problems: tuple[str, str]):
    """Joins the problems to one message, with "; " between them."""
    sentences = [f"setting {key} {problem}".removesuffix(".") for key, problem in problems]
    super().__init__(f"S{'; '.join(sentences)[1:]}.")
    self.problems = problems


def one_line(text: str) -> str:
  """Returns escaped text on one line: line breaks and the blanks around them become a space."""
  return escaped(re.sub(r"\s*\n\s*", " ", text))


def escaped(text: str) -> str:
  """Returns text with escapes for all characters that do not print.

  A path or the name of a class can then neither colour the terminal nor move its cursor.
  """
  if text.isprintable():
    return text
  return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def inert(text: str) -> str:
  """Returns text for a cell of a CSV file: an apostrophe precedes what spreadsheets would run."""
  return f"'{text}" if text.startswith(_FORMULA) else text


def first_line(error: BaseException) -> str:
  """Returns the first line of an exception's text, or its type if the text is empty."""
  return next(iter(str(error).strip().splitlines()), type(error).__name__)[:_LONGEST]


def unreadable(name: str, error: BaseException) -> str:
  """Returns the sentence about an array-like of another library that NumPy cannot read."""
  return f"{name} cannot be converted to a NumPy array: give a plain array ({first_line(error)})."


def unknown(key: str, known: Iterable[str], prefix: str = "") -> str:
  """Returns the sentence about an unknown key, with the nearest known name or all known names."""
  known = list(known)
  if not known:
    return f"Unknown setting {prefix}{key}; {prefix.removesuffix('.')} has no settings to change."
  close = difflib.get_close_matches(key, known, n=1)
  hint = f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(known)}."
  return f"Unknown setting {prefix}{key}; {hint}"
