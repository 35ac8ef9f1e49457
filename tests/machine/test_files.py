"""Complete writes, and the errors of the system."""

import pytest

from miue_jax.machine import files
from miue_jax.settings.errors import UserError


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
  with pytest.raises(UserError, match=r"Cannot write .*taken: File exists; name a folder"):
    files.write_texts(tmp_path / "taken", {"a": "1"})
  assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("cut", [0, 3, 1 << 20])
def test_a_line_replaces_what_a_kill_cut_off(tmp_path, cut):
  path = tmp_path / "x"
  path.write_bytes(b"first\n" + b"y" * cut)
  files.append_line(path, b"second")
  assert path.read_bytes() == b"first\nsecond\n"


def test_a_path_is_shown_in_one_line_of_moderate_length():
  assert files.shown("a\nb\x1b[31m\udc80") == "a b\\x1b[31m\\udc80"
  assert files.shown("x" * 9 + "é") == "x" * 9 + "é"
  assert len(files.shown("x" * 5000)) < 600


def test_a_disk_without_room_is_refused_before_the_work(tmp_path):
  files.require_space(tmp_path, 1)
  with pytest.raises(UserError, match=r"the results take 1,000,000,000,000,000,000 or more: free"):
    files.require_space(tmp_path, 10**18)
  files.require_space(tmp_path / "not" / "yet", 1)


@pytest.mark.parametrize("path", ["/proc/out", "/proc/not/yet", "/dev/null/out"])
def test_a_path_that_cannot_be_written_is_refused_before_the_work(path):
  with pytest.raises(UserError, match=f"Cannot write {path}: .* correct the path"):
    files.require_space(path, 0)
