"""Tables of a comparison: statistics against NumPy, marks, files that other programs read."""

import csv
import dataclasses
import io
import pathlib
import re

import numpy as np
import pytest

from miue_jax import report
from miue_jax.report import arena, arena_figures, arena_files, tables

AXES = report.Axes(
  dataset="digits",
  methods=("clean", "random", "em", "ap_max", "mine"),
  victims=("small_cnn",),
  seeds={"none": (0, 1, 2), "jpeg10": (0,)},
)
ACCURACIES = {
  ("clean", "none"): (90.0, 92.0, 94.0),
  ("random", "none"): (5.0, 6.0, 7.0),  # a control cannot be the strongest poison
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
def content(rows, lost):
  return arena.gather(AXES, rows, lost, [], {}, FACTS, "")


def entries(content):
  return content.panels[0].entries


def test_statistics_are_numpys(content):
  for (method, defence), values in ACCURACIES.items():
    entry = entries(content)[method][defence]
    assert entry.last.mean == pytest.approx(np.mean(values))
    assert entry.peak.mean == pytest.approx(np.mean(values) + 2)
    if len(values) > 1:
      assert entry.last.std == pytest.approx(np.std(values, ddof=1))
    if method != "clean":
      gap = np.mean(ACCURACIES["clean", defence]) - np.mean(values)
      assert entry.gap == pytest.approx(gap)


def test_the_strongest_poison_of_each_column_is_marked(content):
  marked = {
    (method, defence)
    for method, line in entries(content).items()
    for defence, entry in line.items()
    if entry.strongest
  }
  assert marked == {("em", "none"), ("ap_max", "jpeg10")}


def test_what_is_lost_or_missing_is_said(content):
  cells = {
    (m, d): arena.accuracy(entry)
    for m, line in entries(content).items()
    for d, entry in line.items()
  }
  assert cells["em", "none"] == "25.0 ± 5.0 / 27.0 ± 5.0"  # its row outweighs its loss
  assert cells["ap_max", "none"] == "40.0 / 42.0, 1 of 3 lost, 1 of 3 not yet"
  assert cells["mine", "none"] == "1 of 3 lost, 2 of 3 not yet"
  assert cells["mine", "jpeg10"] == "lost"
  notes = [note for note in content.notes if REASON in note]
  assert len(notes) == 1  # one reason, one sentence
  assert "ap_max / small_cnn / none / 1, mine / small_cnn / none / 0" in notes[0]


def test_an_empty_table_waits():
  empty = arena.gather(AXES, [], [], [], {}, {}, "")
  texts = {arena.accuracy(e) for line in entries(empty).values() for e in line.values()}
  assert texts == {"not yet"}
  assert not any(e.strongest for line in entries(empty).values() for e in line.values())


def test_a_larger_budget_is_stated(content):
  (note,) = [note for note in content.notes if "epsilon" in note]
  assert "mine (16/255; budget: not kept" in note
  assert "em (" not in note
  times = {line[0]: line[1:3] for line in content.facts}
  assert times["em"] == ["15.0 ± 7.1", "2,500"]
  assert times["mine"] == [tables.MISSING, tables.MISSING]


def test_published_numbers_appear_only_where_asked(rows, lost, content):
  asked = arena.gather(AXES, rows, lost, [], {}, FACTS, "cifar10")
  assert arena.accuracy(entries(asked)["em"]["none"]).endswith("[24.17]")
  assert arena.accuracy(entries(asked)["em"]["jpeg10"]).endswith("[81.50]")
  assert "[" not in arena.accuracy(entries(asked)["mine"]["none"])
  assert "CIFAR-10" in asked.legend
  assert "CIFAR-10" not in content.legend
  assert all(e.published is None for line in entries(content).values() for e in line.values())


def test_csv_holds_every_cell(content):
  text = arena_files.to_csv([content])
  lines = {(x["method"], x["defence"]): x for x in csv.DictReader(io.StringIO(text))}
  assert len(lines) == len(AXES.methods) * len(AXES.seeds)
  assert float(lines["em", "none"]["test_accuracy_std"]) == pytest.approx(5)
  assert lines["em", "none"]["seeds"] == "3"
  assert float(lines["em", "jpeg10"]["generation_seconds"]) == 15
  assert lines["mine", "none"]["test_accuracy"] == ""
  assert lines["mine", "none"]["lost"] == f"seed 0: {REASON}"
  assert lines["mine", "none"]["budget"] == FACTS["mine"]["budget"]


def test_lines_of_the_csv_fit_the_leaderboard(content):
  path = pathlib.Path(__file__).parents[2] / "docs" / "leaderboard.csv"
  with open(path, newline="") as file:
    board = list(csv.DictReader(file))
  header = arena_files.to_csv([content]).splitlines()[0].split(",")
  assert set(board[0]) - {"commit"} <= set(header)
  cells = [tuple(line[key] for key in ("dataset", "victim", "defence", "method")) for line in board]
  own = [cell for cell in cells if cell[3] != "clean"]  # of which there is one for every run
  assert len(own) == len(set(own))
  assert all(0 <= float(line["test_accuracy"]) <= 100 for line in board)


def test_latex_is_balanced_and_escaped(content):
  text = arena_files.latex([content])
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


def test_every_special_character_of_latex_is_set_as_written():
  assert arena_files._tex("a_b & 5 % $1 #2 {x} ~^\\") == (
    r"a\_b \& 5 \% \$1 \#2 \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{}"
  )


def test_files_say_the_same_twice(tmp_path, rows, lost):
  contents = [arena.gather(AXES, rows, lost, [], {}, FACTS, "cifar10")]
  config = {"name": "x", "compare": {"recipes": {"em": {"method": {"epochs": 1}}}}}
  text = report.write_arena(tmp_path / "a", contents, config, "python <x>")
  report.write_arena(tmp_path / "b", contents, config, "python <x>")
  names = {path.name for path in (tmp_path / "a").iterdir()}
  assert names == {"compare.html", "compare.md", "compare.csv", "compare.tex"}
  for name in names:
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
  assert text == (tmp_path / "a" / "compare.md").read_text()
  assert "**25.0 ± 5.0 / 27.0 ± 5.0 [24.17]**" in text


def test_several_data_sets_stand_side_by_side(tmp_path, rows, content):
  axes = dataclasses.replace(AXES, dataset="other", methods=("clean", "em"))
  second = arena.gather(axes, [row | {"dataset": "other"} for row in rows], [], [], {}, {}, "")
  text = report.write_arena(tmp_path, [content, second], {}, "")
  assert text.startswith("# Who makes digits and other unlearnable")
  columns, cells = arena.side_by_side([content, second])
  assert [name for name, _ in columns] == ["method", "digits, small_cnn", "other, small_cnn"]
  both = {line[0]: line[1:] for line in cells}
  assert list(both) == list(AXES.methods)
  for found, shown in zip((content, second), zip(*both.values(), strict=True), strict=True):
    of = entries(found)
    assert list(shown) == [
      arena.accuracy(of[name]["none"]) if name in of else tables.MISSING for name in both
    ]
  for name in ("digits", "other"):
    assert text.count(f"## {name}, victim small_cnn") == 1
  page = (tmp_path / "compare.html").read_text()
  assert page.count("<h2>Without a defence</h2>") == text.count("## Without a defence") == 1
  ids = re.findall(r' id="([^"]+)"', page)
  assert len(ids) == len(set(ids))
  lines = csv.DictReader(io.StringIO((tmp_path / "compare.csv").read_text()))
  found = [(line["dataset"], line["method"]) for line in lines if line["defence"] == "none"]
  assert found == [("digits", name) for name in AXES.methods] + [
    ("other", name) for name in ("clean", "em")
  ]
  assert (tmp_path / "compare.tex").read_text().count(r"\begin{table*}") == 2


def test_the_page_is_self_contained_and_escapes(tmp_path, content):
  report.write_arena(tmp_path, [content], {"name": "<b>x</b>"}, "python '<script>'")
  page = (tmp_path / "compare.html").read_text()
  assert "<script" not in page
  assert "&lt;lost&gt;" in page
  assert "<strong>25.0 ± 5.0 / 27.0 ± 5.0</strong>" in page
  links = re.findall(r'(?:href|src)="([^"#][^"]*)"', page)
  assert all(link.startswith("data:") for link in links), links
  assert page.count("<svg") == 1


def test_the_heat_map_shows_its_numbers_and_crosses_out_what_is_missing():
  svg = arena_figures.heat_map(
    [[10.0, np.nan], [99.94, 0.0]], ["a", "b"], ["x", "y"], [(0, 0)], "heat"
  )
  texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
  for text in ("10.0", "99.9", "0.0", "\N{MULTIPLICATION SIGN}", "a", "b", "x", "y"):
    assert text in texts
  assert arena_figures.heat_map([[np.nan]], ["a"], ["x"], [], "heat") is None
