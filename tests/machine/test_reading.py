"""Regular files and folders; end_to_end/test_untrusted_files.py has what is neither."""

import os

import pytest

from miue_jax.machine import reading
from miue_jax.settings.errors import UserError


def test_a_file_is_read_up_to_its_limit(tmp_path):
  (tmp_path / "x").write_bytes(b"12345")
  (tmp_path / "link").symlink_to("x")
  assert reading.read_bytes(tmp_path / "link", 5) == b"12345"
  with pytest.raises(UserError, match="it has 5 bytes, more than the 4"):
    reading.read_bytes(tmp_path / "x", 4)


def test_a_file_that_does_not_state_its_size_has_the_same_limit():
  path = "/proc/self/status"
  if not os.path.exists(path):
    pytest.skip("this system has no /proc")
  assert b"Name:" in reading.read_bytes(path, 1 << 16)
  with pytest.raises(UserError, match="more than the 10"):
    reading.read_bytes(path, 10)


def test_entries_say_what_they_are(tmp_path):
  (tmp_path / "b").mkdir()
  (tmp_path / ".a").write_text("x")
  (tmp_path / "c").symlink_to("b")
  (tmp_path / "d").symlink_to("d")
  os.mkfifo(tmp_path / "e")
  found = [(entry.name, entry.kind, entry.link) for entry in reading.entries(tmp_path)]
  assert found == [
    (".a", "file", False),
    ("b", "folder", False),
    ("c", "folder", True),
    ("d", "broken link", True),
    ("e", "named pipe", False),
  ]


def test_pictures_are_found_behind_links_to_folders_once(tmp_path):
  (tmp_path / "a").mkdir()
  for name in ("a/1.png", "a/2.txt", "a/.3.png"):
    (tmp_path / name).write_text("x")
  (tmp_path / "a" / "again").symlink_to(tmp_path)
  (tmp_path / "a" / "self").symlink_to(tmp_path / "a" / "self")
  found = list(reading.files_below(tmp_path, ".png"))
  assert [path.name for path in found] == ["1.png"]
  (tmp_path / "4.png").symlink_to(tmp_path / "nowhere")
  with pytest.raises(UserError, match=r"4\.png is a broken link"):
    list(reading.files_below(tmp_path, ".png"))


def test_a_fingerprint_is_that_of_names_and_contents(tmp_path):
  found = []
  for number, (name, text) in enumerate((("a", "1"), ("a", "1"), ("a", "2"), ("b", "1"))):
    inner = tmp_path / str(number) / "inner"
    inner.mkdir(parents=True)
    (inner / f"{name}.py").write_text(text)
    (inner / f"{number}.pyc").write_text("ignored")
    found.append(reading.fingerprint(inner.parent, ".py"))
  assert found[0] == found[1]
  assert len(set(found)) == 3
