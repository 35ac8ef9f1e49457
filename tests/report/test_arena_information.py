"""Mutual information beside the accuracies: gaps, what is missing, and every view of them."""

import csv
import io

import pytest

from miue_jax import report
from miue_jax.report import (
  arena,
  arena_files,
  arena_information,
  arena_markdown,
  arena_page,
  tables,
)

AXES = report.Axes(
  dataset="digits",
  methods=("clean", "em", "ap", "miue"),
  victims=("small_cnn", "linear"),
  seeds={"none": (3, 4), "jpeg10": (3,)},
)
SETTINGS = {"samples": 500, "seed": 0, "features": "small_cnn of seed 3"}
WARNING = "16 x 16 bins are many."


def line(method, values, **changes):
  """A measurement with one estimate for each `estimator=value`."""
  rows = [
    {
      "method": method,
      "estimator": name,
      "mi": value,
      "interval": None if value is None else [value - 0.1, value + 0.1],
      "warnings": [WARNING] if method == "em" else [],
      "settings": {"bins": 16, "slices": 128},
    }
    for name, value in values.items()
  ]
  found = {
    "dataset": "digits",
    "method": method,
    "victim": "small_cnn",
    "defence": "none",
    "seed": 3,
    "settings": SETTINGS,
    "rows": rows,
    "theory": [],
  }
  return found | changes


LINES = [
  line("clean", {"sliced histogram": 2.0, "mine": 5.0}),
  line("em", {"sliced histogram": 9.0, "mine": 9.0}),  # measured again below
  line("em", {"sliced histogram": 1.25, "mine": None}),
  line("ap", {"sliced histogram": 2.5, "mine": 5.5}, settings=SETTINGS | {"samples": 50}),
  line("miue", {"sliced histogram": 7.0}, seed=4),
  line("miue", {"sliced histogram": 7.0}, victim="vgg11_bn"),
  line("miue", {"sliced histogram": 7.0}, dataset="svhn"),
]


@pytest.fixture
def content(make_row):
  rows = [make_row(method, 50.0, seed=3) for method in AXES.methods]
  return arena.gather(AXES, rows, [], LINES, {}, {}, "")


@pytest.fixture
def measured():
  return arena_information.gather(LINES, "digits", "small_cnn", 3)


def test_the_gap_is_taken_from_clean_images_by_the_same_estimator(measured):
  assert measured.estimators == ("sliced histogram", "mine")
  assert measured.value("em", "sliced histogram") == 1.25
  assert measured.gap("em", "sliced histogram") == 0.75
  assert measured.gap("clean", "sliced histogram") is None
  assert measured.cells("clean") == ["2.000", tables.MISSING, "5.000", tables.MISSING]
  assert measured.cells("em") == ["1.250", "0.750", tables.MISSING, tables.MISSING]


@pytest.mark.parametrize("method", ["ap", "miue", "absent"])
def test_what_was_not_measured_by_the_same_settings_is_missing(measured, method):
  assert measured.cells(method) == [tables.MISSING] * 4


def test_the_legend_names_estimators_and_settings(measured):
  for words in ("500 images", "seed 0", "sliced histogram (bins 16, slices 128)", "mine (bins 16"):
    assert words in measured.legend
  assert measured.warnings == (
    f"sliced histogram, em / small_cnn; mine, em / small_cnn: {WARNING}",
  )


def test_without_measurements_there_are_no_columns(content):
  linear = content.panels[1]
  assert linear.measured == arena_information.Measured()
  assert arena.gap_table(linear)[0] == [("gap", False), ("none", True), ("jpeg10", True)]
  assert linear.gap_legend == arena.GAP_LEGEND


def test_a_lone_estimator_is_not_named_in_its_columns():
  lone = arena_information.gather([line("clean", {"knn": 1.0})], "digits", "small_cnn", 3)
  assert [name for name, _ in lone.columns] == ["MI (nats)", "MI gap (nats)"]


def test_markdown_and_page_show_them(content):
  text = arena_markdown.markdown([content], "")
  (em,) = [x for x in text.splitlines() if x.startswith("| em ") and "0.750" in x]
  assert [cell.strip() for cell in em.split("|")[-5:-1]] == ["1.250", "0.750"] + [
    tables.MISSING
  ] * 2
  page = arena_page.html([content], {}, "")
  for words in ("MI gap, sliced histogram (nats)", ">0.750<", "slices 128", WARNING):
    assert words in page


def test_csv_and_latex_show_them(content):
  lines = list(csv.DictReader(io.StringIO(arena_files.to_csv([content]))))
  cells = {(x["victim"], x["method"], x["defence"]): x for x in lines}
  em = cells["small_cnn", "em", "none"]
  assert float(em["mi_sliced_histogram"]) == 1.25
  assert float(em["mi_sliced_histogram_low"]) == pytest.approx(1.15)
  assert float(em["mi_gap_sliced_histogram"]) == 0.75
  assert em["mi_mine"] == em["mi_gap_mine"] == ""
  assert cells["small_cnn", "em", "jpeg10"]["mi_sliced_histogram"] == ""
  assert cells["linear", "em", "none"]["mi_sliced_histogram"] == ""
  tex = arena_files.latex([content])
  (em,) = [x for x in tex.splitlines() if x.startswith("em &") and "1.250" in x]
  assert em.count("&") == 2 + 4
  assert r"\begin{tabular}{lrrrrrr}" in tex
  assert "MI gap, mine (nats)" in tex
