"""Draws test accuracy over the quality of JPEG as an SVG for the pages, from `compare.csv`.

`configs/curves.py:jpeg` is a recipe for such a comparison:

    python -m benchmarks.qualities runs/jpeg/report/compare.csv docs/qualities.svg
"""

import argparse
import csv
import pathlib
import re
from collections.abc import Iterable, Mapping

from benchmarks import course
from miue_jax.report import figures
from miue_jax.report.aggregate import Statistic

_WITHOUT = 100  # place of images that nothing compressed
_GUESSING = 10.0  # percent, of ten classes


def chart(rows: Iterable[Mapping[str, str]]) -> figures.Chart:
  """Returns the chart of the table that a comparison writes.

  Args:
    rows: Rows of `compare.csv`; only those without a defence or with JPEG are drawn.
  """
  points = [
    ("JPEG", row["method"], float(match[1] or _WITHOUT), _statistic(row))
    for row in rows
    if (match := re.fullmatch(r"none|jpeg(\d+)", row["defence"]))
  ]
  lines = {name: sorted(line) for name, line in figures.grouped(points)["JPEG"].items()}
  words = "Small CNN after JPEG", "quality (100: not compressed)", "test accuracy (%)"
  return figures.Chart(*words, lines, reference={"chance": _GUESSING}, scale="percent")


def _statistic(row: Mapping[str, str]) -> Statistic:
  deviation = row["test_accuracy_std"]
  count = int(row["seeds"])
  return Statistic(float(row["test_accuracy"]), float(deviation) if deviation else None, count)


def main() -> None:
  """Draws the file."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("table", type=pathlib.Path, help="compare.csv of a run")
  parser.add_argument("output", type=pathlib.Path, help="the SVG")
  options = parser.parse_args()
  with options.table.open(newline="") as file:
    drawing = figures.line_charts([chart(csv.DictReader(file))], height=3.4, width=7.0)
  assert drawing
  options.output.write_text(course.alone(drawing))


if __name__ == "__main__":
  main()
