"""Draws what happens while a poison is made, and what victims learn, as an SVG for the pages.

The run needs the setting measure.epochs, with which the program also measures during generation:

    python -m miue_jax.main --config.measure.epochs=32
    python -m benchmarks.course runs/digits/report/report.json docs/course.svg
"""

import argparse
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from miue_jax import report
from miue_jax.report import aggregate, figures

# Title and vertical axis by the name in the history of a manifest.
_COURSE = {
  "objective": ("What delta minimises", "L_mi"),
  "information": ("Clean and poisoned features", "mutual information (nats)"),
  "half_log_det": ("Spread of poisoned features", "half ln det (nats)"),
}


def charts(document: Mapping[str, Any]) -> list[figures.Chart]:
  """Returns the charts of a report: three of the generation, and the victims without a defence.

  Args:
    document: What mode 'report' writes as `report.json`.

  Raises:
    ValueError: Nothing was measured during generation.
  """
  manifest = document["manifest"]
  history, method = manifest["history"], manifest["method"]
  if "observed_epoch" not in history:
    raise ValueError("the run had no measure.epochs, so that nothing was measured")
  drawn = []
  for name, (title, up) in _COURSE.items():
    values = history[name]
    epochs = range(1, len(values) + 1) if name == "objective" else history["observed_epoch"]
    points = ((title, method, *point) for point in zip(epochs, values, strict=True))
    across = "epoch of generation"
    line = figures.grouped(points)[title]
    drawn.append(figures.Chart(title, across, up, line, scale="free"))
  conditions = [c for c in aggregate.aggregate(document["rows"]) if c.defence == "none"]
  tests = {c.method: aggregate.mean_curve(c.curves, "test_accuracy") for c in conditions}
  look = {"reference": {"chance": document["chance"]}, "scale": "percent", "spread": "band"}
  words = "Victims on clean test images", "epoch of training", "test accuracy (%)"
  return [*drawn, figures.Chart(*words, tests, **look)]


def alone(svg: str) -> str:
  """Returns a drawing of a report as a file: with its colours, light and dark, and a background."""
  style = pathlib.Path(report.__file__).with_name("templates") / "style.css"
  colours = style.read_text().partition("\n* {")[0]
  start, _, rest = svg.partition(">")
  start = start.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
  paper = '<rect width="100%" height="100%" style="fill: var(--paper)"/>'
  # Half of the bytes are line ends and indents.
  rest = "\n".join(line.strip() for line in rest.splitlines())
  return f"{start}><style>{colours}</style>{paper}{rest}\n"


def main(argv: Sequence[str] | None = None) -> None:
  """Draws the file."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("report", type=pathlib.Path, help="report.json of a run")
  parser.add_argument("output", type=pathlib.Path, help="the SVG")
  options = parser.parse_args(argv)
  try:
    drawn = charts(json.loads(options.report.read_text()))
  except (OSError, ValueError, KeyError, TypeError) as error:
    parser.error(f"{options.report} cannot be drawn ({error}): give the report.json of a run")
  drawing = figures.line_charts(drawn, height=2.5)
  assert drawing
  options.output.write_text(alone(drawing))


if __name__ == "__main__":
  main()
