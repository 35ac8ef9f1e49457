"""Tests the drawings of accuracies over a quality."""

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
  miue, small = {"method": "miue", "psnr_db": "33.2"}, {"method": "miue_epsilon4", "psnr_db": "39"}
  rows = [
    CLEAN,
    CLEAN | small | {"test_accuracy": "11"},
    CLEAN | miue | {"test_accuracy": "10"},
    CLEAN | miue | {"defence": "jpeg75", "test_accuracy": "58"},
    CLEAN | miue | {"defence": "jpeg10"},
  ]
  lines = qualities.over_psnr(rows).lines
  assert {name: [(x, s.mean) for x, s in line] for name, line in lines.items()} == {
    "miue": [(33.2, 10.0), (39.0, 11.0)],
    "miue, JPEG-75": [(33.2, 58.0)],
  }
