"""JSON and CSV that are not trusted; end_to_end/test_untrusted_files.py has more of them."""

import json

import pytest
from typing_extensions import TypedDict

from miue_jax.machine import documents, files
from miue_jax.settings.errors import UserError
from miue_jax.settings.schema import Moderate, Whole


def test_json_is_read_as_it_was_written(tmp_path):
  content = {"name": "é", "values": [1, 2.5, None], "nested": {"yes": True}}
  files.write_json(tmp_path / "x.json", content)
  assert documents.read_json(tmp_path / "x.json") == content
  assert json.loads((tmp_path / "x.json").read_text()) == content


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b"9" * 5000])
def test_damaged_json_is_named_with_advice(tmp_path, text):
  (tmp_path / "x.json").write_bytes(text)
  with pytest.raises(UserError, match=r"x\.json is damaged \(.*\): copy it again\.$") as error:
    documents.read_json(tmp_path / "x.json", "copy it again")
  assert "\n" not in str(error.value)


def test_missing_json_is_named(tmp_path):
  with pytest.raises(UserError, match=r"Cannot read .*x\.json: No such file"):
    documents.read_json(tmp_path / "x.json")


class Point(TypedDict):
  """Declares the object that the tests read."""

  x: Moderate
  n: Whole


@pytest.mark.parametrize(
  ("text", "problem"),
  [
    ('{"x": 1}', "n: field required"),
    ('{"x": "1", "n": 0}', "x.*: input should be a valid"),
    ('{"x": true, "n": 0}', "x.*: input should be a valid"),
    ('{"x": 1e999, "n": 0}', "x.*it is too large"),
    ('{"x": 0, "n": -1}', "n: input should be greater than or equal to 0"),
    ('{"x": 0, "n": 1.0}', "n: input should be a valid integer"),
  ],
)
def test_a_schema_names_the_key_that_fails(tmp_path, text, problem):
  (tmp_path / "x.json").write_text(text)
  with pytest.raises(UserError, match=rf"x\.json is damaged \({problem}"):
    documents.read_json(tmp_path / "x.json", schema=Point)


def test_values_come_back_as_they_are_in_the_file(tmp_path):
  (tmp_path / "x.json").write_text('{"x": 1, "n": 2, "more": [NaN]}')
  found = documents.read_json(tmp_path / "x.json", schema=Point)
  assert type(found["x"]) is int
  assert str(found) == "{'x': 1, 'n': 2, 'more': [nan]}"


def test_lines_are_named(tmp_path):
  path = tmp_path / "x.jsonl"
  path.write_bytes(b'{"x": 0, "n": 1}\n{"x": 0.5, "n": 2}\n{"cut')
  assert documents.read_lines(path, Point, "a point") == [{"x": 0, "n": 1}, {"x": 0.5, "n": 2}]
  path.write_bytes(path.read_bytes() + b"\n")
  with pytest.raises(UserError, match=r"Line 3 of .*x\.jsonl is not a point \(.*delete that line"):
    documents.read_lines(path, Point, "a point")


@pytest.mark.parametrize(
  ("content", "words"),
  [
    (b"a,b\n1,2\n", "2 rows; it has a, b and 1 rows: copy it again"),
    (b"a,c\n1,2\n3,4\n", "the columns a, b and 2 rows"),
    (b"", "is not a table"),
    (b'a,b\n"1,2\n', "is not a table"),
    (b"a,b\n" + b"x" * 200_000, "is not a table"),
  ],
)
def test_a_table_has_its_columns_and_rows(tmp_path, content, words):
  path = tmp_path / "x.csv"
  path.write_bytes('a,b\n1,é\n"\n",4\n'.encode() + b"\xff,5\n")
  assert documents.read_csv(path, ["a", "b"], 3, "x") == [["1", "é"], ["\n", "4"], ["\udcff", "5"]]
  path.write_bytes(content)
  with pytest.raises(UserError, match=words):
    documents.read_csv(path, ["a", "b"], 2, "copy it again")
