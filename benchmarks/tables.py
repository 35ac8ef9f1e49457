"""Provides the Markdown tables and the summaries of repeated timings."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def spread(values: Sequence[float]) -> dict[str, float]:
  """Returns the median and the range of repeated measurements as `median`, `low` and `high`."""
  return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def cell(value: Any) -> str:
  """Writes text, a number, a result of `spread` or None as the cell of a table."""
  if value is None:
    return "\N{EN DASH}"
  if isinstance(value, Mapping):
    return f"{cell(value['median'])} ({cell(value['low'])} to {cell(value['high'])})"
  if isinstance(value, float):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
  return f"{value:,}" if isinstance(value, int) else value


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns an aligned Markdown table of one or more rows with the same columns."""
  names = list(rows[0])
  cells = [[cell(value) for value in row.values()] for row in rows]
  widths = [max(3, *map(len, column)) for column in zip(names, *cells, strict=True)]
  rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

  def line(texts: Sequence[str]) -> str:
    numbers = (text.rjust(width) for text, width in zip(texts[1:], widths[1:], strict=True))
    return f"| {' | '.join([texts[0].ljust(widths[0]), *numbers])} |"

  return "\n".join(map(line, [names, rule, *cells]))
