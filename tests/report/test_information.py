"""Cells, warnings and drawings of estimates, and their columns in a comparison."""

import csv
import io
import math
import re

import pytest

from miue_jax import report
from miue_jax.report import information
from miue_jax.report.tables import MISSING


def row(method, mi, estimator="sliced histogram", **changes):
  return {"method": method, "estimator": estimator, "mi": mi, "std": 0.1} | changes


def texts(svg):
  return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_cells_of_new_and_old_rows():
  new = row("miue", 1.5, interval=[1.25, 1.75], null_mean=0.5, null_std=0.125)
  assert information.estimates([new])[1] == [
    ["miue", "sliced histogram", "1.500", "0.100", "1.250 to 1.750", "0.500 ± 0.125"]
  ]
  old = {"method": "clean", "mi": math.nan, "std": 0.25}
  assert information.estimates([old])[1] == [["clean", MISSING, MISSING, "0.250", MISSING, MISSING]]


def test_agreement_gives_no_sentence():
  rows = [row("clean", 2.0), row("random", 2.5), row("miue", 1.9), row("restored", 2.0)]
  assert information.disagreement(rows) == []
  assert information.disagreement(rows[1:]) == []  # Without clean features nothing is compared.
  assert information.disagreement([]) == []


def test_disagreement_is_one_sentence_that_names_the_estimators():
  rows = [
    row("clean", 2.0),
    row("miue", 2.0),
    row("clean", 1.0, "mine"),
    row("miue", 0.5, "mine"),
    row("clean", 0.25, "infonce"),
    row("miue", 0.75, "infonce"),
    row("clean", 0.1, "nwj"),
    row("miue", math.nan, "nwj"),
  ]
  (sentence,) = information.disagreement(rows)
  assert "sliced histogram (2.000 nats for miue, 2.000 for clean)" in sentence
  assert "infonce (0.750 nats for miue, 0.250 for clean)" in sentence
  assert "mine" not in sentence
  assert "nwj" not in sentence
  assert sentence.count(". ") == 0
  assert sentence.endswith(".")


def test_disagreement_of_an_older_measurement():
  (sentence,) = information.disagreement(
    [{"method": "clean", "mi": 1.0}, {"method": "em", "mi": 1.5}]
  )
  assert "the estimator (1.500 nats for em" in sentence


def test_a_warning_appears_once_with_its_rows():
  rows = [
    row("clean", 1.0, warnings=["Too few."]),
    row("miue", 1.0, warnings=["Too few.", "Too long."]),
  ]
  assert information.warnings(rows) == [
    "sliced histogram, clean; sliced histogram, miue: Too few.",
    "sliced histogram, miue: Too long.",
  ]


def test_settings_of_each_estimator_are_listed_once():
  measurement = {
    "settings": {"samples": 20},
    "rows": [
      row("clean", 1.0, settings={"inner": {"bins": 16}}),
      row("miue", 1.0, settings={"inner": {"bins": 16}}),
      row("miue", 1.0, "mine", settings={"width": 64}),
    ],
  }
  assert information.settings(measurement) == [
    ("samples", "20"),
    ("sliced histogram.inner.bins", "16"),
    ("mine.width", "64"),
  ]
  assert information.settings({}) == []


def test_settings_that_layers_share_are_listed_once():
  def of(layer, bins):
    return row("clean", 1.0, settings={"bins": bins}) | {"layer": layer}

  alike = {"rows": [of("Block_0", 16), of("Block_1", 16), of("features", 16)]}
  assert information.settings(alike) == [("sliced histogram.bins", "16")]
  apart = {"rows": [of("Block_0", 16), of("features", 9)]}
  assert information.settings(apart) == [
    ("sliced histogram of Block_0.bins", "16"),
    ("sliced histogram.bins", "9"),
  ]


def test_each_estimator_has_its_own_axes():
  rows = [row("clean", 2.0), row("miue", 1.0), row("clean", 30.0, "mine", std=None)]
  shown = texts(information.bars(rows))
  assert shown.count("sliced histogram") == shown.count("mine") == 1
  assert {"2.000", "1.000", "30.000"} <= set(shown)
  assert information.bars([row("clean", math.nan)]) is information.bars([]) is None


def test_bars_are_those_of_the_last_layer():
  rows = [
    row(method, value, estimator) | {"layer": layer}
    for layer, value in (("Block_0", 1.5), ("Block_1", 0.5))
    for method in ("clean", "miue")
    for estimator in ("sliced histogram", "sliced knn")
  ]
  shown = texts(information.bars(rows))
  assert shown.count("0.500") == 4
  assert "1.500" not in shown
  assert not [text for text in shown if "Block_0" in text]


def test_layers_are_named_and_drawn_in_their_order():
  rows = [
    row(method, mi, layer=layer)
    for method, high in (("clean", 2.0), ("miue", 1.0))
    for layer, mi in (("Block_0", high), ("Block_1", high / 2), ("features", high / 4))
  ]
  assert [line[:3] for line in information.estimates(rows)[1]][:3] == [
    ["clean", "sliced histogram of Block_0", "2.000"],
    ["clean", "sliced histogram of Block_1", "1.000"],
    ["clean", "sliced histogram", "0.500"],
  ]
  assert list(information.groups(rows)) == [
    "sliced histogram of Block_0",
    "sliced histogram of Block_1",
    "sliced histogram",
  ]
  shown = texts(information.layers(rows))
  assert shown.index("Block_0") < shown.index("Block_1") < shown.index("features")
  assert information.layers(rows[2:3]) is None
  assert information.layers([row("clean", 1.0)]) is None


AXES = report.Axes(
  dataset="digits",
  methods=("clean", "em", "ap", "miue"),
  victims=("small_cnn", "linear"),
  seeds={"none": (3, 4), "jpeg10": (3,)},
)
SETTINGS = {"samples": 500, "seed": 0, "features": "small_cnn of seed 3"}
WARNING = "16 x 16 bins are many."
WANTED = {"dataset": "digits", "victim": "small_cnn", "defence": "none", "seed": 3}


def line(method, values, **changes):
  """Returns a measurement with one estimate for each `estimator: value`."""
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
  return WANTED | {"method": method, "settings": SETTINGS, "rows": rows, "theory": []} | changes


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
def files(make_row):
  rows = [make_row(method, 50.0, seed=3) for method in AXES.methods]
  results = report.Results(AXES, rows, measurements=LINES)
  return report.Comparison([results], {}, "").files


@pytest.fixture
def measured():
  return information.Estimates.gather(LINES, WANTED)


def cells(estimates, method):
  return [cell(method) for cell in estimates.columns.values()]


def test_the_gap_is_taken_from_clean_images_by_the_same_estimator(measured):
  assert measured.estimators == ["sliced histogram", "mine"]
  assert measured.value("em", "sliced histogram") == 1.25
  assert measured.gap("em", "sliced histogram") == 0.75
  assert measured.gap("clean", "sliced histogram") is None
  assert cells(measured, "clean") == ["2.000", MISSING, "5.000", MISSING]
  assert cells(measured, "em") == ["1.250", "0.750", MISSING, MISSING]


@pytest.mark.parametrize("method", ["ap", "miue", "absent"])
def test_a_measurement_with_other_settings_is_missing(measured, method):
  assert cells(measured, method) == [MISSING] * 4


def test_estimators_are_named_with_their_settings(measured):
  assert measured.used == ["sliced histogram (bins 16, slices 128)", "mine (bins 16, slices 128)"]
  assert measured.warnings == [f"sliced histogram, em / small_cnn; mine, em / small_cnn: {WARNING}"]


def test_without_measurements_there_are_no_columns():
  linear = report.Results(AXES, [], measurements=LINES).grids[1]
  assert linear.estimates == information.Estimates({}, {})
  assert linear.gaps[0] == [("gap", False), ("none", True), ("jpeg10", True)]


def test_a_single_estimator_is_not_named_in_its_columns():
  single = information.Estimates.gather([line("clean", {"knn": 1.0})], WANTED)
  assert list(single.columns) == ["MI (nats)", "MI gap (nats)"]


def test_markdown_and_page_show_the_estimates(files):
  text, page = files["compare.md"], files["compare.html"]
  (em,) = [x for x in text.splitlines() if x.startswith("| em ") and "0.750" in x]
  shown = [cell.strip() for cell in em.split("|")[-5:-1]]
  assert shown == ["1.250", "0.750", MISSING, MISSING]
  for words in ("MI gap, sliced histogram (nats)", ">0.750<", WARNING):
    assert words in page
  for words in ("500 images", "seed 0", "sliced histogram (bins 16, slices 128)", "mine (bins 16"):
    assert words in page
    assert words in text
  captions = re.findall(r"<caption>(Accuracy gap:[^<]*)</caption>", page)
  assert ["MI gap" in caption for caption in captions] == [True, False]  # `linear` has none.


def test_csv_and_latex_show_the_estimates(files):
  lines = list(csv.DictReader(io.StringIO(files["compare.csv"])))
  found = {(x["victim"], x["method"], x["defence"]): x for x in lines}
  em = found["small_cnn", "em", "none"]
  assert float(em["mi_sliced_histogram"]) == 1.25
  assert float(em["mi_sliced_histogram_low"]) == pytest.approx(1.15)
  assert float(em["mi_gap_sliced_histogram"]) == 0.75
  assert em["mi_mine"] == em["mi_gap_mine"] == ""
  assert found["small_cnn", "em", "jpeg10"]["mi_sliced_histogram"] == ""
  assert found["linear", "em", "none"]["mi_sliced_histogram"] == ""
  tex = files["compare.tex"]
  (em,) = [x for x in tex.splitlines() if x.startswith("em &") and "1.250" in x]
  assert em.count("&") == 2 + 4
  assert r"\begin{tabular}{lrrrrrr}" in tex
  assert "MI gap, mine (nats)" in tex
