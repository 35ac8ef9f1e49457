"""Formats the cells of tables, and tables as aligned Markdown, CSV and LaTeX."""

import csv
import html
import io
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from miue_jax.report.aggregate import Statistic, finite
from miue_jax.settings import schema
from miue_jax.settings.errors import inert

MISSING = "\N{EN DASH}"
LISTED = 20  # A longer list of settings is counted, not written out.

Columns = Sequence[tuple[str, bool]]  # header, and True for a column of numbers
Cells = Sequence[Sequence[str]]
Table = tuple[Columns, Cells]


class Strong(str):
  """A cell that every view emphasises."""


def number(value: Any, digits: int) -> str:
  """Returns a finite number with `digits` decimals, or a dash for anything else."""
  return f"{value:.{digits}f}" if finite(value) else MISSING


def spread(value: Statistic | None, digits: int = 1, unit: str = "") -> str:
  """Returns mean and deviation, `12.3 ± 1.2`; `12.3` for one seed; a dash for None."""
  if value is None:
    return MISSING
  std = "" if value.std is None else f" ± {value.std:.{digits}f}"
  return f"{value.mean:.{digits}f}{unit}{std}"


def build(
  items: Iterable[Any], cells: Mapping[str, Callable[[Any], str]], text: Collection[str]
) -> Table:
  """Builds a table with one line for each item.

  Args:
    items: What the lines are about.
    cells: Function from an item to its cell, by header.
    text: Headers of the columns that do not hold numbers.
  """
  columns = [(name, name not in text) for name in cells]
  return columns, [[cell(item) for cell in cells.values()] for item in items]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
  """Lists nested settings as pairs of a dotted key and a readable value."""
  values = schema.flat(tree, prefix)
  return [(key, _readable(key.rpartition(".")[2], value)) for key, value in values.items()]


def sections(config: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
  """Lists nested settings by section: a name and readable pairs, without empty sections."""
  nested = {key: value for key, value in config.items() if isinstance(value, Mapping)}
  top = flatten({key: value for key, value in config.items() if key not in nested})
  found = [("experiment", top), *((key, flatten(nested[key], f"{key}.")) for key in nested)]
  return [(name, pairs) for name, pairs in found if pairs]


def _readable(key: str, value: Any) -> str:
  if value is None or value == "" or (isinstance(value, float) and not finite(value)):
    return MISSING
  if isinstance(value, list | tuple):
    if len(value) > LISTED:
      return f"{len(value)} values"
    return ", ".join(_readable(key, item) for item in value) or MISSING
  if isinstance(value, float):
    # Papers state budgets and step sizes in 255ths of the pixel range.
    in_255ths = key in ("epsilon", "step_size_start", "step_size_end")
    return f"{value * 255:.4g}/255" if in_255ths else f"{value:.6g}"
  return str(value)


def escape(text: str) -> str:
  """Escapes markup, cell borders and line breaks for a Markdown cell or sentence."""
  return " ".join(html.escape(text, quote=False).replace("|", "\\|").split())


def markdown(columns: Columns, cells: Cells) -> str:
  """Returns an aligned Markdown table; columns of numbers are flush right."""
  lines = [[escape(name) for name, _ in columns]]
  for row in cells:
    lines.append([f"**{escape(c)}**" if isinstance(c, Strong) else escape(c) for c in row])
  widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
  numeric = [is_number for _, is_number in columns]
  rule = [
    "-" * (width - 1) + (":" if right else "-")
    for width, right in zip(widths, numeric, strict=True)
  ]
  padded = (
    [c.rjust(w) if right else c.ljust(w) for c, w, right in zip(row, widths, numeric, strict=True)]
    for row in (lines[0], rule, *lines[1:])
  )
  return "\n".join(f"| {' | '.join(row)} |" for row in padded)


def to_csv(lines: Sequence[Mapping[str, Any]]) -> str:
  """Returns one line for each mapping; the header holds all keys in order of appearance.

  Text that a spreadsheet would take for a formula gets an apostrophe in front.
  """
  stream = io.StringIO()
  columns = dict.fromkeys(name for line in lines for name in line)
  writer = csv.writer(stream, lineterminator="\n")
  for cells in (columns, *([line.get(name) for name in columns] for line in lines)):
    writer.writerow([inert(cell) if isinstance(cell, str) else cell for cell in cells])
  return stream.getvalue()


def tex(text: str) -> str:
  """Escapes the special characters of LaTeX."""
  special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
  special |= {character: rf"\{character}" for character in "&%$#_{}"}
  special |= {"±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}"}
  return "".join(special.get(character, character) for character in text)
