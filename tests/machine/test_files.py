"""Complete writes, and reads of files that are not trusted."""

import contextlib
import json
import pickle
import zipfile

import numpy as np
import pytest

from miue_jax.machine import archives, documents, files
from miue_jax.settings.errors import UserError


class Trap:
  """Fails the test if it is ever unpickled."""

  def __reduce__(self):
    return (pytest.fail, ("unpickled",))


OBJECTS = np.array([Trap()], object)


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
  path = tmp_path / "file"
  path.write_text("old")

  def interrupted():
    with files.replacing(path) as file:
      file.write(b"half of the n")
      raise KeyError

  with pytest.raises(KeyError):
    interrupted()
  assert path.read_text() == "old"
  with files.replacing(path) as file:
    file.write(b"new")
  assert path.read_text() == "new"
  assert list(tmp_path.iterdir()) == [path]


def test_texts_are_replaced_together_or_not_at_all(tmp_path, monkeypatch):
  files.write_texts(tmp_path / "new", {"a": "é", "b": "half \ud800"})
  assert (tmp_path / "new" / "a").read_text(encoding="utf-8") == "é"
  assert (tmp_path / "new" / "b").read_text(encoding="utf-8") == "half \\ud800"
  old = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
  (tmp_path / "new" / ".c").mkdir()
  monkeypatch.setattr("os.getpid", lambda: 1)
  (tmp_path / "new" / ".c.1").mkdir()
  with pytest.raises(UserError, match=r"Cannot write .*/c: "):
    files.write_texts(tmp_path / "new", {"a": "1", "b": "2", "c": "3"})
  found = (tmp_path / "new").iterdir()
  assert {path.name: path.read_bytes() for path in found if path.is_file()} == old


def test_texts_need_a_folder(tmp_path):
  (tmp_path / "taken").write_text("a file")
  with pytest.raises(UserError, match=r"Cannot write .*taken: File exists"):
    files.write_texts(tmp_path / "taken", {"a": "1"})
  assert [path.name for path in tmp_path.iterdir()] == ["taken"]


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


def test_an_archive_lists_all_arrays_and_reads_only_those_asked_for(tmp_path):
  path = tmp_path / "x.npz"
  np.savez(path, b=np.arange(3), a=OBJECTS)
  archive = archives.Archive(path)
  assert str(archive) == "a, b"
  assert "a" in archive
  assert "c" not in archive
  assert len(archive) == 2
  np.testing.assert_array_equal(archive["b"], np.arange(3))
  with pytest.raises(KeyError):
    archive["c"]
  with pytest.raises(UserError, match=r"x\.npz cannot be read \(.*\): write it with numpy\.savez"):
    archive["a"]


def test_an_empty_archive_holds_nothing(tmp_path):
  np.savez(tmp_path / "x.npz")
  assert str(archives.Archive(tmp_path / "x.npz")) == "nothing"


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps(Trap()), b"PK\x03\x04 broken"])
def test_a_file_that_is_not_an_archive_is_named(tmp_path, content):
  (tmp_path / "x.npz").write_bytes(content)
  with pytest.raises(UserError, match=r"x\.npz is not an \.npz file: make it again\."):
    archives.Archive(tmp_path / "x.npz", "make it again")


def test_a_damaged_archive_never_gives_other_arrays(tmp_path):
  path = tmp_path / "x.npz"
  array = np.random.default_rng(0).integers(0, 256, 64, np.uint8)
  np.savez(path, x=array)
  content = path.read_bytes()
  for position in range(len(content)):
    damaged = bytearray(content)
    damaged[position] ^= 0xFF
    path.write_bytes(damaged)
    with contextlib.suppress(UserError, KeyError):
      np.testing.assert_array_equal(archives.Archive(path)["x"], array)


def test_a_member_that_is_not_an_array_is_named(tmp_path):
  with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
    archive.writestr("x.npy", b"not an array")
  with pytest.raises(UserError, match="x is not an array"):
    archives.Archive(tmp_path / "x.npz")["x"]


def test_an_array_is_read_without_pickle(tmp_path):
  array = np.asfortranarray(np.arange(6).reshape(2, 3))
  np.save(tmp_path / "x.npy", array)
  found = archives.read_npy(tmp_path / "x.npy", "make it again")
  np.testing.assert_array_equal(found, array)
  assert found.flags.c_contiguous
  np.save(tmp_path / "x.npy", OBJECTS, allow_pickle=True)
  with pytest.raises(UserError, match=r"x\.npy cannot be read \(.*\): make it again\."):
    archives.read_npy(tmp_path / "x.npy", "make it again")
