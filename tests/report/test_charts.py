"""Charts of a comparison: which points make a line, and which lines are drawn."""

import re

import pytest

from miue_jax import report
from miue_jax.report import charts
from miue_jax.report.aggregate import aggregate
from miue_jax.report.information import Estimates


def settings(**method):
  """Returns what the manifest of a poison says about its recipe."""
  shared = {"name": "miue", "epochs": 16, "fraction": 1.0, "epsilon": 8 / 255}
  return {"settings": shared | {"model": {"width": 16}} | method}


FACTS = {
  "full": settings(),
  "half": settings(fraction=0.5),
  "tenth": settings(fraction=0.1),
  "large": settings(epsilon=16 / 255),
  "long": settings(epochs=99, fraction=0.5),  # the only one with these epochs
  "em": settings(name="em"),
  "external": {"settings": None},
}
NAMES = ("clean", *FACTS, "unmade")


@pytest.fixture
def lines(make_row):
  """Conditions with accuracy 10 i + j for method i with defence j, without `left_out`."""

  def build(*defences, names=NAMES, left_out=()):
    rows = [
      make_row(name, 10.0 * i + j, defence=defence)
      for i, name in enumerate(names)
      for j, defence in enumerate(defences)
      if (name, defence) not in left_out
    ]
    axes = report.Axes("digits", names, ("small_cnn",), dict.fromkeys(defences, (0,)))
    found = {}
    for condition in aggregate(rows, axes):
      found.setdefault(condition.method, {})[condition.defence] = condition
    return found

  return build


def estimates(values):
  """Returns estimates of the values by estimator and method."""
  rows = {}
  for estimator, found in values.items():
    for method, nats in found.items():
      rows.setdefault(method, {})[estimator] = {"estimator": estimator, "mi": nats}
  return Estimates(rows, {})


def by_title(found):
  return {chart.title: chart for chart in found}


def points(chart):
  return {name: [(x, value.mean) for x, value in line] for name, line in chart.lines.items()}


def test_recipes_that_differ_in_one_setting_make_a_line(lines):
  found = by_title(charts.of_victim(lines("none"), FACTS))
  assert set(found) == {"Poisoning ratio", "Budget"}
  (line,) = points(found["Poisoning ratio"]).items()
  assert line == ("miue", [(pytest.approx(10), 30), (50, 20), (100, 10)])
  assert found["Poisoning ratio"].reference == {"clean": 0.0}
  (line,) = points(found["Budget"]).items()
  assert line == ("miue", [(pytest.approx(8), 10), (pytest.approx(16), 40)])


def test_two_lines_of_one_method_have_two_names(lines):
  facts = FACTS | {"longer": settings(epochs=99)}
  found = charts.of_victim(lines("none", names=(*NAMES, "longer")), facts)
  assert list(by_title(found)["Poisoning ratio"].lines) == ["miue", "long"]


def test_numbered_defences_are_sorted_by_their_number(lines):
  given = lines(
    "none", "jpeg90", "jpeg10", "at4", "cutout", "bits2", "bits4", left_out=[("em", "jpeg10")]
  )
  found = by_title(charts.of_victim(given, {}))
  assert set(found) == {"JPEG"}  # One radius is no curve.
  shown = points(found["JPEG"])
  assert set(shown) == set(NAMES) - {"em"}
  assert shown["full"] == [(10, 12), (90, 11)]


def test_without_variation_there_is_no_chart(lines):
  assert charts.of_victim(lines("none", "jpeg10", "at4"), {"em": settings()}) == []


def test_victims_stay_in_their_order(lines):
  networks = {
    "resnet18": (lines("none"), estimates({"knn": {"clean": 2.0, "em": 1.0}})),
    "linear": (lines("jpeg10"), estimates({"knn": {"clean": 3.0}})),
    "mlp2": (lines("none"), estimates({})),
  }
  accuracy, information = charts.over_victims(networks)
  assert accuracy.ticks == information.ticks == ("resnet18", "linear", "mlp2")
  assert points(accuracy)["em"] == [(0, 60), (2, 60)]
  assert points(information) == {"clean": [(0, 2), (1, 3)], "em": [(0, 1)]}
  columns, cells = charts.table(information)
  assert [name for name, _ in columns] == ["victim", "clean", "em"]
  assert cells == [["resnet18", "2.000", "1.000"], ["linear", "3.000", "–"], ["mlp2", "–", "–"]]  # noqa: RUF001
  assert charts.over_victims({"linear": networks["linear"]}) == []


def test_the_page_draws_and_lists_them(make_row):
  axes = report.Axes(
    "digits", ("clean", "em"), ("linear", "mlp2"), {"none": (0,), "jpeg10": (0,), "jpeg50": (0,)}
  )
  rows = [
    make_row(m, 50.0 + i, victim=v, defence=d)
    for i, v in enumerate(axes.victims)
    for m in axes.methods
    for d in axes.seeds
  ]
  explained = [
    {"explanation": "MI gap", "rho": None, "p_value": None, "n": 1, "rows": ["em"]}
    | {"sentence": "Too few <poisons>.", "values": {"em": 0.25}, "gaps": {"em": 12.5}}
  ]
  results = report.Results(axes, rows, explanations={"mlp2": explained})
  files = report.Comparison([results], {}, "").files
  text, page = files["compare.md"], files["compare.html"]
  assert "| mlp2   |  51.0 | 51.0 |" in text
  assert "| em     |                  12.5 |  0.250 |" in text
  assert "1: em" in text
  titles = re.findall(r"<text[^>]*>([^<]*)</text>", page)
  assert titles.count("JPEG") == 2
  assert titles.count("Test accuracy") == 1
  assert "Adversarial training" not in page
  assert "Too few &lt;poisons&gt;." in page
  assert page.count("What correlates with the accuracy gap") == 1
  ids = re.findall(r' id="([^"]+)"', page)
  assert len(ids) == len(set(ids))
