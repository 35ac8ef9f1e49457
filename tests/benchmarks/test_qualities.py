"""Tests the drawings of accuracies over a quality."""

import csv

import pytest

from benchmarks import qualities

ROW = {"test_accuracy": "60.5", "test_accuracy_std": "", "seeds": "1", "psnr_db": ""}
CLEAN = ROW | {"method": "clean", "defence": "none"}


def test_every_quality_has_its_place_and_no_compression_is_last():
  rows = [
    CLEAN,
    CLEAN | {"defence": "jpeg90", "test_accuracy": "58"},
    CLEAN | {"defence": "jpeg10", "test_accuracy": "50", "test_accuracy_std": "1.5", "seeds": "3"},
    CLEAN | {"defence": "grayscale"},
    CLEAN | {"method": "miue", "test_accuracy": "9.8"},
  ]
  lines = qualities.over_jpeg(rows).lines
  assert {name: [(x, s.mean) for x, s in line] for name, line in lines.items()} == {
    "clean": [(10, 50.0), (90, 58.0), (100, 60.5)],
    "miue": [(100, 9.8)],
  }
  assert [(s.std, s.n) for _, s in lines["clean"]] == [(1.5, 3), (None, 1), (None, 1)]


def test_budgets_of_a_method_are_one_line_over_the_psnr():
  miue, small = {"method": "miue", "psnr_db": "33.21"}, {"method": "miue_epsilon4", "psnr_db": "39"}
  rows = [
    CLEAN,
    CLEAN | small | {"test_accuracy": "11"},
    CLEAN | miue | {"test_accuracy": "10"},
    CLEAN | miue | {"defence": "jpeg75", "test_accuracy": "58"},
    CLEAN | miue | {"defence": "grayscale"},
  ]
  lines = qualities.over_psnr(rows).lines
  assert {name: [(x, s.mean) for x, s in line] for name, line in lines.items()} == {
    "miue": [(33.2, 10.0), (39.0, 11.0)],
    "miue, JPEG-75": [(33.2, 58.0)],
  }


def written(path, rows):
  with path.open("w", newline="") as file:
    writer = csv.DictWriter(file, {**ROW, **ONE, "method": "", "defence": ""})
    writer.writeheader()
    writer.writerows(ONE | row for row in rows)
  return [str(path), str(path.with_suffix(".svg"))]


ONE = {"dataset": "toy", "victim": "small_cnn"}


def test_a_table_with_a_lost_cell_and_two_cells_of_a_quality_is_drawn(tmp_path):
  lost = CLEAN | {"defence": "jpeg10", "test_accuracy": ""}
  paths = written(tmp_path / "compare.csv", [CLEAN, CLEAN | {"defence": "jpeg100"}, lost])
  qualities.main(["jpeg", *paths])
  assert (tmp_path / "compare.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
  ("rows", "message"),
  [
    ([CLEAN, CLEAN | {"victim": "mlp"}], "several datasets or victims"),
    ([CLEAN], "nothing to draw: it needs rows of poisons"),
    ([], "nothing to draw"),
  ],
)
def test_a_table_that_cannot_be_drawn_is_refused(tmp_path, rows, message, capsys):
  with pytest.raises(SystemExit, match="2"):
    qualities.main(["psnr", *written(tmp_path / "compare.csv", rows)])
  assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"\xbc\x00", b"test_accuracy\n1\n"])
def test_another_file_is_refused(tmp_path, content, capsys):
  path = tmp_path / "other.csv"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(SystemExit, match="2"):
    qualities.main(["psnr", str(path), str(tmp_path / "drawing.svg")])
  assert "other.csv cannot be read" in capsys.readouterr().err
