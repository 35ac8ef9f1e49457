"""Tests the drawing of a generation and its victims."""

import xml.etree.ElementTree as ET

import pytest

from benchmarks import course
from miue_jax.report import figures


@pytest.fixture
def document():
  """Returns the report of a run of three epochs, two of which were observed."""
  history = {"objective": [3.0, 2.0, 1.5], "observed_epoch": [2, 3]}
  history |= {"information": [0.9, 0.4], "half_log_det": [-20.0, -30.0]}
  same = {"dataset": "toy", "victim": "mlp", "defence": "none"}
  rows = [
    same | {"method": name, "seed": seed, "curve": {"epoch": [1, 2], "test_accuracy": reached}}
    for name, reached in (("clean", [50.0, 90.0]), ("miue", [30.0, 12.0]))
    for seed in (0, 1)
  ]
  rows.append(rows[0] | {"defence": "jpeg10"})
  return {"manifest": {"history": history, "method": "miue"}, "rows": rows, "chance": 10.0}


def test_every_value_has_its_epoch(document):
  objective, information, term, victims = course.charts(document)
  lines = {chart.title: chart.lines for chart in (objective, information, term, victims)}
  values = [
    {name: [(x, s.mean) for x, s in points] for name, points in line.items()}
    for line in lines.values()
  ]
  assert values == [
    {"miue": [(1, 3.0), (2, 2.0), (3, 1.5)]},
    {"miue": [(2, 0.9), (3, 0.4)]},
    {"miue": [(2, -20.0), (3, -30.0)]},
    {"clean": [(1, 50.0), (2, 90.0)], "miue": [(1, 30.0), (2, 12.0)]},
  ]


def test_a_run_without_observation_is_refused(document):
  del document["manifest"]["history"]["observed_epoch"]
  with pytest.raises(ValueError, match=r"measure\.epochs"):
    course.charts(document)


@pytest.mark.parametrize("text", [None, "not json", "{}", '{"manifest": null}'])
def test_a_file_that_is_no_report_is_one_sentence(tmp_path, text, capsys):
  path = tmp_path / "report.json"
  if text is not None:
    path.write_text(text)
  with pytest.raises(SystemExit, match="2"):
    course.main([str(path), str(tmp_path / "drawing.svg")])
  assert "report.json cannot be drawn" in capsys.readouterr().err


def test_the_file_has_colours_for_light_and_dark_pages(document):
  text = course.alone(figures.line_charts(course.charts(document)))
  assert ET.fromstring(text).get("aria-label").startswith("What delta minimises: L_mi")
  assert "prefers-color-scheme: dark" in text
  for name in ("paper", "ink", "clean", "series-0"):
    assert text.count(f"--{name}: #") == 2
    assert f"var(--{name})" in text
