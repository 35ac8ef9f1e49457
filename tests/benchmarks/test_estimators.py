"""Tests the table of estimators and tasks."""

import numpy as np
import pytest

from benchmarks import estimators, tasks


def test_a_cell_is_estimate_minus_truth():
  task = tasks.Task("shifted", 10.0, tasks.TASKS[2].draw)
  found = estimators.measure(task, "gaussian", 2000, seeds=3)
  # The Gaussian estimate of 0.41 has a standard deviation of 0.75 / sqrt(2,000) = 0.017.
  assert found["error"] == pytest.approx(0.4133 - 10, abs=0.04)
  assert 0 < found["spread"] < 0.06
  assert found["seconds"] > 0
  assert found["warned"] == 0


def test_a_histogram_of_many_features_is_left_out():
  wide = tasks.normal("", tasks.dense(5))
  assert estimators.measure(wide, "histogram", 300, seeds=1) is None


def test_the_tables_have_a_row_for_each_task_and_a_column_for_each_estimator():
  chosen = (tasks.TASKS[2], tasks.normal("dense", tasks.dense(12)))
  errors, seconds = estimators.table(chosen, ["knn", "histogram"], 300, seeds=2).split("Seconds")
  for part in (errors, seconds):
    rows = [line for line in part.splitlines() if line.startswith("|")]
    assert rows[0].replace("|", " ").split() == ["task", "truth", "knn", "histogram"]
    assert len(rows) == 2 + len(chosen)
    assert all(row.count("|") == 5 for row in rows)
  dense = next(line for line in errors.splitlines() if line.startswith("| dense"))
  assert "*" in dense  # k-NN in 12 dimensions comes with a warning
  assert dense.split("|")[-2].strip() == ""
  assert f"{chosen[1].truth:.3f}" in dense


def test_every_quick_column_runs_on_a_small_task():
  quick = set(estimators.COLUMNS) - {"mine", "infonce", "nwj"}
  for name in quick:
    found = estimators.measure(tasks.TASKS[2], name, 500, seeds=1)
    assert np.isfinite(found["error"])
    assert abs(found["error"]) < 0.15
