"""Curves of the arena: which points make a line, and which lines are drawn."""

import re

import pytest

from miue_jax import report
from miue_jax.report import arena, arena_curves, arena_figures, arena_markdown, arena_page
from miue_jax.report.aggregate import Statistic


def settings(**method):
  """What made a poison, as its manifest holds it."""
  shared = {"name": "miue", "epochs": 16, "fraction": 1.0, "epsilon": 8 / 255}
  return {
    "settings": {
      "model": {"width": 16},
      "source": {"learning_rate": 0.1},
      "method": shared | {"epsilon_start": 8 / 255} | method,
    }
  }


FACTS = {
  "full": settings(),
  "half": settings(fraction=0.5),
  "tenth": settings(fraction=0.1),
  "large": settings(epsilon=16 / 255, epsilon_start=16 / 255),
  "long": settings(epochs=99, fraction=0.5),  # alone with these epochs
  "em": settings(name="em"),
  "brought": {"settings": None},
}
NAMES = ("clean", *FACTS, "unmade")


def values(*defences):
  """Accuracy of line i under defence j is 10 i + j."""
  return {
    name: {defence: Statistic(10.0 * i + j, None, 1) for j, defence in enumerate(defences)}
    for i, name in enumerate(NAMES)
  }


def by_title(charts):
  return {chart.title: chart for chart in charts}


def points(chart):
  return {name: [(x, value.mean) for x, value in line] for name, line in chart.lines.items()}


def test_recipes_that_differ_in_one_setting_make_a_line():
  charts = by_title(arena_curves.charts(values("none"), FACTS))
  assert set(charts) == {"Poisoning ratio", "Budget"}
  (line,) = points(charts["Poisoning ratio"]).items()
  assert line == ("miue", [(pytest.approx(10), 30), (50, 20), (100, 10)])
  assert charts["Poisoning ratio"].reference == ("clean", 0.0)
  (line,) = points(charts["Budget"]).items()
  assert line == ("miue", [(pytest.approx(8), 10), (pytest.approx(16), 40)])


def test_two_lines_of_one_method_have_two_names():
  facts = FACTS | {"longer": settings(epochs=99)}
  given = values("none") | {"longer": {"none": Statistic(1.0, None, 1)}}
  lines = by_title(arena_curves.charts(given, facts))["Poisoning ratio"].lines
  assert list(lines) == ["miue", "long"]


def test_numbered_defences_are_sorted_by_their_number():
  given = values("none", "jpeg90", "jpeg10", "at4", "cutout", "bits2", "bits4")
  given["em"]["jpeg10"] = None  # not trained yet
  charts = by_title(arena_curves.charts(given, {}))
  assert set(charts) == {"JPEG"}  # one radius is no curve
  lines = points(charts["JPEG"])
  assert set(lines) == set(NAMES) - {"em"}
  assert lines["full"] == [(10, 12), (90, 11)]


def test_nothing_varied_nothing_drawn():
  assert arena_curves.charts(values("none", "jpeg10", "at4"), {"em": settings()}) == []
  assert arena_figures.line_charts([], "x") is None


def test_victims_stay_in_their_order():
  networks = {
    "resnet18": (values("none"), {"knn": {"clean": 2.0, "em": 1.0}}),
    "linear": (values("jpeg10"), {"knn": {"clean": 3.0}}),
    "mlp2": (values("none"), {}),
  }
  accuracy, information = arena_curves.over_victims(networks)
  assert accuracy.ticks == information.ticks == ("resnet18", "linear", "mlp2")
  assert points(accuracy)["em"] == [(0, 60), (2, 60)]
  assert points(information) == {"clean": [(0, 2), (1, 3)], "em": [(0, 1)]}
  columns, cells = arena_curves.table(information)
  assert [name for name, _ in columns] == ["victim", "clean", "em"]
  assert cells == [["resnet18", "2.000", "1.000"], ["linear", "3.000", "–"], ["mlp2", "–", "–"]]  # noqa: RUF001
  assert arena_curves.over_victims({"linear": networks["linear"]}) == []


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
  content = arena.gather(axes, rows, [], [], {"mlp2": explained}, {}, "")
  text = arena_markdown.markdown([content], "")
  assert "| mlp2   |  51.0 | 51.0 |" in text
  assert "| em     |                  12.5 |  0.250 |" in text
  assert "1: em" in text
  page = arena_page.html([content], {}, "")
  titles = re.findall(r"<text[^>]*>([^<]*)</text>", page)
  assert titles.count("JPEG") == 2
  assert titles.count("Test accuracy") == 1
  assert "Adversarial training" not in page
  assert "Too few &lt;poisons&gt;." in page
  assert page.count("What goes with the accuracy gap") == 1
  ids = re.findall(r' id="([^"]+)"', page)
  assert len(ids) == len(set(ids))


def test_a_chart_shows_its_ticks_and_spreads():
  line = [(0.0, Statistic(1.0, 0.5, 2)), (2.0, Statistic(3.0, None, 1))]
  chart = arena_figures.Chart("T", "x", "y", {"em": line}, reference=("clean", 9.0))
  svg = arena_figures.line_charts([chart], "n")
  texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
  assert {"T", "x", "y", "0", "2", "em", "clean"} <= set(texts)
  assert 'aria-label="y over x, of clean, em."' in svg
  named = arena_figures.Chart("T", "x", "y", {"em": line[:1]}, ticks=("linear", "mlp2"))
  assert "mlp2" in re.findall(r"<text[^>]*>([^<]*)</text>", arena_figures.line_charts([named], "n"))
