"""Provides the Markdown tables and the summaries of repeated timings."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from miue_jax.report import tables


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
  """Returns an aligned Markdown table of rows; all columns but the first hold numbers."""
  columns = [(name, place > 0) for place, name in enumerate(rows[0])]
  return tables.markdown(columns, [[cell(value) for value in row.values()] for row in rows])
