"""Rows survive a kill, and are counted once."""

import json

import pytest

from miue_jax.experiment import results
from miue_jax.experiment.results import Rows
from miue_jax.settings.errors import UserError

ROW = {"dataset": "d", "method": "clean", "victim": "linear", "defence": "none", "seed": 0}


def test_no_file_has_no_rows(tmp_path):
  rows = Rows(tmp_path / "results.jsonl")
  assert rows.read() == []
  assert rows.filled() == set()


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_row_that_a_kill_cut_off_is_dropped_and_replaced(tmp_path, cut):
  path = tmp_path / "results.jsonl"
  first, second, third = ({**ROW, "seed": seed, "victim": "é\n"} for seed in range(3))
  Rows(path).append(first)
  Rows(path).append(second)
  path.write_bytes(path.read_bytes()[:-cut])
  assert Rows(path).read() == [first]
  Rows(path).append(third)
  assert Rows(path).read() == [first, third]
  assert path.read_bytes().endswith(b"\n")


def test_a_single_row_that_was_cut_off_is_dropped(tmp_path):
  path = tmp_path / "results.jsonl"
  path.write_bytes(b'{"dataset": "d"')
  assert Rows(path).read() == []
  Rows(path).append(ROW)
  assert Rows(path).read() == [ROW]


@pytest.mark.parametrize(
  ("line", "message"),
  [
    (b"{", "Expecting property name"),
    (b"", "Expecting value"),
    (b"\xff", "can't decode byte 0xff"),
    (b"[]", "not a JSON object"),
    (b"{}", "dataset: field required"),
    (json.dumps(ROW | {"test_accuracy": "high"}).encode(), "test_accuracy"),
    (json.dumps(ROW | {"seed": 10**30}).encode(), "an integer of more than 64 bits"),
    (b'{"a": ' * 60 + b"1" + b"}" * 60, "nested too deeply"),
  ],
)
def test_a_complete_line_that_is_no_row_is_an_error(tmp_path, line, message):
  path = tmp_path / "results.jsonl"
  path.write_bytes(json.dumps(ROW).encode() + b"\n" + line + b"\n")
  with pytest.raises(UserError, match=rf"Line 2 of .* is not a row.*{message}.*delete that line"):
    Rows(path).read()


def test_a_row_that_cannot_be_written_is_an_error(tmp_path):
  with pytest.raises(UserError, match="Cannot write"):
    Rows(tmp_path / "missing" / "results.jsonl").append(ROW)


@pytest.mark.parametrize("in_memory", [False, True])
def test_rows_are_known_by_their_cells(tmp_path, in_memory):
  rows = Rows(None if in_memory else tmp_path / "results.jsonl")
  for seed in (0, 1, 1):
    rows.append(ROW | {"seed": seed, "test_accuracy": 50.0})
  assert [row["seed"] for row in rows.read()] == [0, 1, 1]
  assert rows.filled() == {results.key_of(ROW), ("d", "clean", "linear", "none", 1)}


def test_rows_in_memory_write_no_file(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  rows = Rows(None)
  rows.append(ROW)
  rows.read().clear()
  assert rows.read() == [ROW]
  assert list(tmp_path.iterdir()) == []
