"""Finds the code of a page."""

import pathlib
import re
from typing import NamedTuple

DOCS = pathlib.Path(__file__).parents[2] / "docs"


class Block(NamedTuple):
  """A fenced block: its language and its text."""

  language: str
  text: str


def blocks(page: str) -> list[Block]:
  """Returns the Python and shell code of a page, in order."""
  text = (DOCS / page).read_text()
  return [Block(*found) for found in re.findall(r"^```(python|bash)\n(.*?)^```", text, re.M | re.S)]


def recipes() -> dict[str, str]:
  """Returns the recipes that howto-add.md has its reader save, by the names of their files."""
  texts = [text for language, text in blocks("howto-add.md") if language == "python"]
  return dict(zip(("mine.py", "theirs.py"), texts, strict=True))
