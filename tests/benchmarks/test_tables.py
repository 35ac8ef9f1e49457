"""Tests the summary of repeated timings and the Markdown tables."""

from benchmarks import tables


def test_spread_is_median_and_range():
  assert tables.spread([3.0, 9.0, 1.0, 5.0]) == {"median": 4.0, "low": 1.0, "high": 9.0}


def test_a_table_is_aligned_and_writes_every_kind_of_value():
  rows = [
    {"step": "delta", "batch": 1024, "images/s": tables.spread([1000.4, 99.99, 110.0])},
    {"step": "evaluate", "batch": 8, "images/s": None},
  ]
  assert tables.markdown(rows).splitlines() == [
    "| step     | batch |           images/s |",
    "| -------- | ----: | -----------------: |",
    "| delta    | 1,024 | 110 (100 to 1,000) |",
    "| evaluate |     8 |                  \N{EN DASH} |",
  ]
