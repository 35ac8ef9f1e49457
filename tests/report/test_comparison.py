"""Tables of a comparison: statistics against NumPy, marks, files for other programs."""

import csv
import dataclasses
import io
import pathlib
import re

import numpy as np
import pytest

from miue_jax import report
from miue_jax.machine.files import write_texts
from miue_jax.report import comparison, tables

AXES = report.Axes(
  dataset="digits",
  methods=("clean", "random", "em", "ap_max", "mine"),
  victims=("small_cnn",),
  seeds={"none": (0, 1, 2), "jpeg10": (0,)},
)
ACCURACIES = {
  ("clean", "none"): (90.0, 92.0, 94.0),
  ("random", "none"): (5.0, 6.0, 7.0),  # A control cannot be the strongest poison.
  ("em", "none"): (20.0, 30.0, 25.0),
  ("ap_max", "none"): (40.0,),
  ("clean", "jpeg10"): (80.0,),
  ("random", "jpeg10"): (79.0,),
  ("em", "jpeg10"): (70.0,),
  ("ap_max", "jpeg10"): (60.0,),
}
FACTS = {
  "em": {
    "seconds": [10.0, 20.0],
    "peak_memory_bytes": 2_500_000_000,
    "max_delta_255ths": 8,
    "beyond": False,
    "budget": "8/255",
    "psnr_db": 33.1,
    "ssim": 0.95,
  },
  "mine": {
    "seconds": [],
    "peak_memory_bytes": None,
    "max_delta_255ths": 16,
    "beyond": True,
    "budget": "not kept: 16/255, more than 8/255",
    "psnr_db": 30.0,
    "ssim": None,
  },
}
REASON = "The loss of em_2 & co. is not finite: 100 % <lost> | x"
LOST = [("ap_max", "none", 1), ("mine", "none", 0), ("mine", "jpeg10", 0), ("em", "none", 0)]


@pytest.fixture
def rows(make_row):
  inside = [
    make_row(method, accuracy, seed, defence=defence, peak_test_accuracy=accuracy + 2)
    for (method, defence), accuracies in ACCURACIES.items()
    for seed, accuracy in enumerate(accuracies)
  ]
  outside = {"victim": "other"}, {"dataset": "other"}, {"defence": "other"}, {"seed": 9}
  return inside + [make_row("em", 0.0) | change for change in outside]


@pytest.fixture
def lost(make_row):
  return [
    {"dataset": "digits", "victim": "small_cnn", "defence": d, "method": m, "seed": s}
    | {"reason": REASON}
    for m, d, s in LOST
  ]


@pytest.fixture
def results(rows, lost):
  return report.Results(AXES, rows, lost, facts=FACTS)


def grid(results):
  (found,) = results.grids
  return found


def files(*results, config=None, command=""):
  return report.Comparison(results, config or {}, command).files


def cells(results):
  """Returns the text of each cell by method and defence."""
  found = grid(results)
  return {(m, d): found.cell(m, d) for m, line in found.lines.items() for d in line}


def test_statistics_are_numpys(results):
  for (method, defence), values in ACCURACIES.items():
    condition = grid(results).lines[method][defence]
    assert condition.accuracy.mean == pytest.approx(np.mean(values))
    assert condition.metrics["peak_test_accuracy"].mean == pytest.approx(np.mean(values) + 2)
    if len(values) > 1:
      assert condition.accuracy.std == pytest.approx(np.std(values, ddof=1))
    if method != "clean":
      gap = np.mean(ACCURACIES["clean", defence]) - np.mean(values)
      assert condition.gap == pytest.approx(gap)


def test_the_strongest_poison_of_each_column_is_marked(results):
  assert grid(results).strongest == {("em", "none"), ("ap_max", "jpeg10")}
  strong = {key for key, cell in cells(results).items() if isinstance(cell, tables.Strong)}
  assert strong == grid(results).strongest


def test_lost_and_missing_cells_have_words(results):
  found = cells(results)
  assert found["em", "none"] == "25.0 ± 5.0 / 27.0 ± 5.0"  # Its row counts, not its loss.
  assert found["ap_max", "none"] == "40.0 / 42.0, 1 of 3 lost, 1 of 3 not yet"
  assert found["mine", "none"] == "1 of 3 lost, 2 of 3 not yet"
  assert found["mine", "jpeg10"] == "lost"
  notes = [note for note in results.notes if REASON in note]
  assert len(notes) == 1  # one sentence for one reason
  assert "ap_max / small_cnn / none / 1, mine / small_cnn / none / 0" in notes[0]


def test_an_empty_table_waits():
  empty = report.Results(AXES, [])
  assert set(cells(empty).values()) == {"not yet"}
  assert grid(empty).strongest == set()


def test_a_larger_budget_has_a_note(results):
  (note,) = [note for note in results.notes if "epsilon" in note]
  assert "mine (16/255; budget: not kept" in note
  assert "em (" not in note
  columns, lines = results.poisons
  names = [name for name, _ in columns]
  found = {line[0]: dict(zip(names, line, strict=True)) for line in lines}
  assert (found["em"]["time (s)"], found["em"]["memory (MB)"]) == ("15.0 ± 7.1", "2,500")
  assert found["mine"]["time (s)"] == found["mine"]["memory (MB)"] == tables.MISSING


def test_published_numbers_appear_only_where_asked(rows, lost, results):
  asked = report.Results(AXES, rows, lost, facts=FACTS, published="cifar10")
  assert cells(asked)["em", "none"].endswith("[24.17]")
  assert cells(asked)["em", "jpeg10"].endswith("[81.50]")
  assert "[" not in cells(asked)["mine", "none"]
  for name in ("compare.html", "compare.md", "compare.tex"):
    assert "CIFAR-10" in files(asked)[name]
    assert "CIFAR-10" not in files(results)[name]
  assert comparison.published("") == {}


def test_published_numbers_are_read_by_method_and_defence():
  found = comparison.published("cifar10")
  assert len(found) == 49
  assert found["clean", "none"] == 94.45
  assert found["miue", "at2"] == 17.39
  assert ("random", "jpeg10") not in found


def test_csv_holds_every_cell(results):
  text = files(results)["compare.csv"]
  lines = {(x["method"], x["defence"]): x for x in csv.DictReader(io.StringIO(text))}
  assert len(lines) == len(AXES.methods) * len(AXES.seeds)
  assert float(lines["em", "none"]["test_accuracy_std"]) == pytest.approx(5)
  assert lines["em", "none"]["seeds"] == "3"
  assert float(lines["em", "jpeg10"]["generation_seconds"]) == 15
  assert lines["mine", "none"]["test_accuracy"] == ""
  assert lines["mine", "none"]["lost"] == f"seed 0: {REASON}"
  assert lines["mine", "none"]["budget"] == FACTS["mine"]["budget"]
  assert float(lines["em", "none"]["psnr_db"]) == 33.1


def test_lines_of_the_csv_fit_the_leaderboard(results):
  path = pathlib.Path(__file__).parents[2] / "docs" / "leaderboard.csv"
  with open(path, newline="") as file:
    board = list(csv.DictReader(file))
  header = files(results)["compare.csv"].splitlines()[0].split(",")
  assert set(board[0]) - {"commit"} <= set(header)
  keys = ("dataset", "victim", "defence", "method")
  # Every run has its line of clean images; other lines are unique.
  poisons = [tuple(x[key] for key in keys) for x in board if x["method"] != "clean"]
  assert len(poisons) == len(set(poisons))
  assert all(0 <= float(line["test_accuracy"]) <= 100 for line in board)


def test_latex_is_balanced_and_escaped(results):
  text = files(results)["compare.tex"]
  body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
  assert len(body) == len(AXES.methods)
  columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1]
  for line in body:
    assert line.endswith(r" \\")
    assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1
  for name in ("table*", "tabular"):
    assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1
  plain = re.sub(r"\\[{}]", "", text)
  assert plain.count("{") == plain.count("}")
  assert r"ap\_max" in text
  assert not re.search(r"(?<!\\)[_#]", text)
  assert [line.count(r"\textbf") for line in body] == [0, 0, 1, 1, 0]


def test_the_same_input_gives_the_same_bytes(tmp_path, rows, lost):
  config = {"name": "x", "compare": {"recipes": {"em": {"method": {"epochs": 1}}}}}

  def write(folder):
    results = [report.Results(AXES, rows, lost, facts=FACTS, published="cifar10")]
    write_texts(tmp_path / folder, report.Comparison(results, config, "python <x>").files)

  write("a")
  write("b")
  names = {path.name for path in (tmp_path / "a").iterdir()}
  assert names == {"compare.html", "compare.md", "compare.csv", "compare.tex"}
  for name in names:
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
  assert "**25.0 ± 5.0 / 27.0 ± 5.0 [24.17]**" in (tmp_path / "a" / "compare.md").read_text()


def test_several_data_sets_have_a_common_table(rows, results):
  axes = dataclasses.replace(AXES, dataset="other", methods=("clean", "em"))
  second = report.Results(axes, [row | {"dataset": "other"} for row in rows])
  found = report.Comparison([results, second], {}, "")
  text, page = found.files["compare.md"], found.files["compare.html"]
  assert text.startswith("# Which methods make digits and other unlearnable")
  columns, lines = found.side_by_side
  assert [name for name, _ in columns] == ["method", "digits, small_cnn", "other, small_cnn"]
  both = {line[0]: line[1:] for line in lines}
  assert list(both) == list(AXES.methods)
  for given, shown in zip((results, second), zip(*both.values(), strict=True), strict=True):
    known = cells(given)
    assert list(shown) == [known.get((name, "none"), tables.MISSING) for name in both]
  for name in ("digits", "other"):
    assert text.count(f"## {name}, victim small_cnn") == 1
  assert page.count("<h2>Without a defence</h2>") == text.count("## Without a defence") == 1
  ids = re.findall(r' id="([^"]+)"', page)
  assert len(ids) == len(set(ids))
  written = csv.DictReader(io.StringIO(found.files["compare.csv"]))
  names = [(line["dataset"], line["method"]) for line in written if line["defence"] == "none"]
  assert names == [("digits", name) for name in AXES.methods] + [
    ("other", name) for name in ("clean", "em")
  ]
  assert found.files["compare.tex"].count(r"\begin{table*}") == 2


def test_the_page_is_self_contained_and_escaped(results):
  page = files(results, config={"name": "<b>x</b>"}, command="python '<script>'")["compare.html"]
  assert "<script" not in page
  assert "&lt;lost&gt;" in page
  assert "<strong>25.0 ± 5.0 / 27.0 ± 5.0</strong>" in page
  links = re.findall(r'(?:href|src)="([^"#][^"]*)"', page)
  assert all(link.startswith("data:") for link in links), links
  assert page.count("<svg") == 1


def test_correlations_show_small_p_values_and_missing_values():
  one = {"explanation": "MI gap (nats)", "rho": 0.95, "p_value": 0.0001, "n": 2, "rows": ["a", "b"]}
  one |= {"sentence": "S.", "values": {"a": 12.34, "b": None}, "gaps": {"a": 70.0, "b": None}}
  found = grid(report.Results(AXES, [], explanations={"small_cnn": [one]}))
  assert found.correlations[1] == [["MI gap (nats)", "0.95", "<0.001", "2: a, b", "S."]]
  assert found.explained[1] == [["a", "70.0", "12.3"], ["b", tables.MISSING, tables.MISSING]]
  assert grid(report.Results(AXES, [])).correlations is None
