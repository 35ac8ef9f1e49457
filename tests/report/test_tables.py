"""Cells and views of tables."""

from miue_jax.report import tables
from miue_jax.report.aggregate import Statistic


def test_numbers_have_their_digits_or_a_dash():
  assert tables.number(1.25, 1) == "1.2"
  assert tables.number(float("nan"), 1) == tables.number(None, 1) == tables.MISSING
  assert tables.spread(Statistic(1.0, 0.26, 2)) == "1.0 ± 0.3"
  assert tables.spread(Statistic(1.0, 0.26, 2), unit=" %") == "1.0 % ± 0.3"
  assert tables.spread(Statistic(1.0, None, 1), 2) == "1.00"
  assert tables.spread(None) == tables.MISSING


def test_markdown_is_aligned_escaped_and_emphasised():
  columns = [("a", False), ("number", True)]
  text = tables.markdown(columns, [["x|y\nz", "1"], [tables.Strong("<b>"), "10"]])
  assert text.splitlines() == [
    "| a             | number |",
    "| ------------- | -----: |",
    "| x\\|y z        |      1 |",
    "| **&lt;b&gt;** |     10 |",
  ]


def test_settings_are_flattened_in_readable_units():
  tree = {"method": {"epsilon": 8 / 255, "tau": 0.1, "epsilon_epochs": 5}, "seeds": (0, 1), "p": ""}
  tree["perturbed"] = list(range(50_000))
  assert tables.flatten(tree) == [
    ("method.epsilon", "8/255"),
    ("method.tau", "0.1"),
    ("method.epsilon_epochs", "5"),
    ("seeds", "0, 1"),
    ("p", "\N{EN DASH}"),
    ("perturbed", "50000 values"),
  ]


def test_settings_are_grouped_by_section():
  assert tables.sections({"name": "x", "method": {"tau": 0.1}, "empty": {}}) == [
    ("experiment", [("name", "x")]),
    ("method", [("method.tau", "0.1")]),
  ]
  assert tables.sections({}) == []


def test_csv_has_a_column_for_every_key():
  assert tables.to_csv([{"a": 1}, {"a": None, "b": "x,y"}]) == 'a,b\n1,\n,"x,y"\n'
  assert (
    tables.to_csv([{"a": -1.5, "b": "=cmd|' /C calc'!A0"}]) == "a,b\n-1.5,'=cmd|' /C calc'!A0\n"
  )


def test_every_special_character_of_latex_is_escaped():
  assert tables.tex("a_b & 5 % $1 #2 {x} ~^\\") == (
    r"a\_b \& 5 \% \$1 \#2 \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{}"
  )
