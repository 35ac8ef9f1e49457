"""Draws test accuracy over the quality of JPEG, or of the images, for the pages.

Two recipes make such comparisons; the second drawing is over the PSNR of poisoned images:

    python -m benchmarks.qualities jpeg runs/jpeg/report/compare.csv docs/qualities.svg
    python -m benchmarks.qualities psnr runs/strengths/report/compare.csv docs/strengths.svg
"""

import argparse
import csv
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from benchmarks import course
from miue_jax.report import figures
from miue_jax.report.aggregate import Statistic
from miue_jax.report.figures import Chart

_WITHOUT = 100  # place of images that nothing compressed
_GUESSING = 10.0  # percent, of ten classes
_UP = "test accuracy (%)"
# Defences of the drawing over the PSNR.
_SHOWN = {"none": "", "jpeg75": ", JPEG-75", "jpeg10": ", JPEG-10"}


def over_jpeg(rows: Iterable[Mapping[str, str]]) -> Chart:
  """Returns a chart over the quality of JPEG, of the recipe `configs/curves.py:jpeg`.

  Args:
    rows: Rows of `compare.csv`; only those without a defence or with JPEG are drawn.
  """
  points = [
    ("", row["method"], float(match[1] or _WITHOUT), _statistic(row))
    for row in rows
    if (match := re.fullmatch(r"none|jpeg(\d+)", row["defence"]))
  ]
  return _chart("Small CNN after JPEG", "quality (100: not compressed)", points)


def over_psnr(rows: Iterable[Mapping[str, str]]) -> Chart:
  """Returns a chart over the PSNR of poisoned images, of the recipe `configs/curves.py:strengths`.

  Args:
    rows: Rows of `compare.csv`. Poisons of one method that differ in epsilon are one line for each
      defence that is drawn.
  """
  points = [
    (
      "",
      re.sub(r"_epsilon\d+$", "", row["method"]) + _SHOWN[row["defence"]],
      round(float(row["psnr_db"]), 1),
      _statistic(row),
    )
    for row in rows
    if row["psnr_db"] and row["defence"] in _SHOWN
  ]
  return _chart("Small CNN", "PSNR (dB; less is more visible)", points)


def _chart(title: str, across: str, points: Iterable[tuple[str, str, float, Statistic]]) -> Chart:
  found = figures.grouped(points).get("", {})
  lines = {name: sorted(line, key=lambda point: point[0]) for name, line in found.items()}
  return Chart(title, across, _UP, lines, reference={"chance": _GUESSING}, scale="percent")


def _statistic(row: Mapping[str, str]) -> Statistic:
  deviation = row["test_accuracy_std"]
  count = int(row["seeds"])
  return Statistic(float(row["test_accuracy"]), float(deviation) if deviation else None, count)


_DRAWINGS = {"jpeg": over_jpeg, "psnr": over_psnr}
_NEEDED = {
  "jpeg": "it needs rows of the defences none and jpegQ",
  "psnr": "it needs rows of poisons with the defences none, jpeg75 or jpeg10",
}


def main(argv: Sequence[str] | None = None) -> None:
  """Draws the file."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("over", choices=_DRAWINGS, help="what the horizontal axis shows")
  parser.add_argument("table", type=pathlib.Path, help="compare.csv of a run")
  parser.add_argument("output", type=pathlib.Path, help="the SVG")
  options = parser.parse_args(argv)
  try:
    with options.table.open(newline="") as file:
      rows = [row for row in csv.DictReader(file) if row["test_accuracy"]]  # without lost cells
    if len({(row["dataset"], row["victim"]) for row in rows}) > 1:
      parser.error(f"{options.table} has several datasets or victims: draw a table of one")
    chart = _DRAWINGS[options.over](rows)
  except (OSError, ValueError, KeyError, csv.Error) as error:
    parser.error(f"{options.table} cannot be read ({error}): give the compare.csv of a run")
  if not chart.lines:
    parser.error(f"{options.table} has nothing to draw: {_NEEDED[options.over]}")
  drawing = figures.line_charts([chart], height=3.4, width=7.0)
  assert drawing
  options.output.write_text(course.alone(drawing))


if __name__ == "__main__":
  main()
