"""Tests the drawing of accuracies over the quality of JPEG."""

from benchmarks import qualities


def test_every_quality_has_its_place_and_no_compression_is_last():
  row = {"test_accuracy": "60.5", "test_accuracy_std": "", "seeds": "1", "method": "clean"}
  rows = [
    row | {"defence": "none"},
    row | {"defence": "jpeg90", "test_accuracy": "58"},
    row | {"defence": "jpeg10", "test_accuracy": "50", "test_accuracy_std": "1.5", "seeds": "3"},
    row | {"defence": "grayscale"},
    row | {"defence": "none", "method": "miue", "test_accuracy": "9.8"},
  ]
  lines = qualities.chart(rows).lines
  assert {name: [(x, s.mean) for x, s in line] for name, line in lines.items()} == {
    "clean": [(10, 50.0), (90, 58.0), (100, 60.5)],
    "miue": [(100, 9.8)],
  }
  assert [(s.std, s.n) for _, s in lines["clean"]] == [(1.5, 3), (None, 1), (None, 1)]
