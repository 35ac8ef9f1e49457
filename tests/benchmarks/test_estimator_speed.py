"""Tests the comparison of the estimators with scikit-learn."""

import re

import pytest

from benchmarks import estimator_speed


def test_estimators_are_timed_beside_scikit_learn(monkeypatch):
  for name, value in (("SAMPLES", 600), ("FEATURES", 20), ("SLICES", 30)):
    monkeypatch.setattr(estimator_speed, name, value)
  seconds = {}

  def times(calls, repeats):
    for call in calls:
      call()
    seconds["asked"] = repeats
    return [[9.0, 9.0, 9.0], [5.0, 6.0, 7.0], [1.0, 2.0, 2.0], [3.0, 2.0, 8.0]]

  monkeypatch.setattr(estimator_speed, "times", times)
  text = estimator_speed.compare(3)
  assert seconds["asked"] == 3
  rows = [line.split("|") for line in text.splitlines() if line.startswith("|")][2:]
  assert [row[2].strip() for row in rows] == ["600"] * 4
  assert [row[3].strip() for row in rows] == ["20", "2", "1", "1"]
  assert rows[1][4].strip() == "6 (5 to 7)"
  # The ratios 3, 1 and 4 are those of pairs of runs.
  assert "takes 3 (1 to 4) times as long as ours" in text
  theirs, ours = (float(found) for found in re.findall(r"(-?\d+\.\d+)(?: nats|\.$)", text))
  # Both sides are the first estimator of Kraskov et al., on the same 600 pairs.
  assert ours == pytest.approx(theirs, abs=2e-3)


def test_runs_alternate_and_the_first_round_does_not_count():
  order = []
  seconds = estimator_speed.times([lambda: order.append("a"), lambda: order.append("b")], 2)
  assert order == ["a", "b"] * 3
  assert [len(times) for times in seconds] == [2, 2]
  assert all(time >= 0 for times in seconds for time in times)
