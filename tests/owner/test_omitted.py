"""Tests that everything that is left out is named, whatever its name is."""

import os

import numpy as np
import protections
import pytest
from PIL import Image
from toy_pictures import toy
from typer.testing import CliRunner

from miue_jax import cli
from miue_jax.owner import protect
from miue_jax.owner.request import Request

pytestmark = pytest.mark.usefixtures("quick")


def names_in(folder):
  return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))


@pytest.mark.slow
def test_a_new_class_is_left_out_by_name(photos, tmp_path):
  protections.run(photos, tmp_path / "out")
  toy(photos, "cc", 8)
  _, said = protections.run(photos, tmp_path / "out")
  assert "NOT published, because the class is new (cc): 8 pictures." in said
  page = (tmp_path / "out.private" / "page" / "index.html").read_text()
  for number in range(8):
    assert f"  cc/{number:02}.png\n" in said
    assert f"cc/{number:02}.png: its class is new" in page
  assert not (tmp_path / "out" / "cc").exists()


def test_all_that_is_left_out_is_in_a_file_before_the_work(photos, tmp_path, monkeypatch, capsys):
  for number in range(120):
    (photos / "a" / f"{number}.txt").touch()
  (photos / "a" / "x\n.png").touch()
  whole = (photos / "bbb" / "04.png").read_bytes()
  (photos / "bbb" / "04.png").write_bytes(whole[: len(whole) // 2])

  def begun(*arguments):
    raise KeyboardInterrupt

  monkeypatch.setattr(protect.generate, "first", begun)
  with pytest.raises(KeyboardInterrupt):
    protect.protect(Request(photos, tmp_path / "out", seed=1), print)
  said, path = capsys.readouterr().out, tmp_path / "out.private" / "left_out.txt"
  assert said.count(".txt: no picture (.txt)\n") == 100
  assert "  and 21 more\n" in said  # notes.txt, too
  assert f"All that is left out is named in {path}." in said
  found = path.read_text().splitlines()
  assert len(found) == 124
  assert {f"a/{number}.txt: no picture (.txt)" for number in range(120)} < set(found)
  assert "a/x\\n.png: its name holds control characters" in found
  assert any(line.startswith("bbb/04.png cannot be decoded") for line in found)


@pytest.mark.slow
def test_names_that_are_no_utf8_are_published_and_restored(tmp_path):
  photos, out, odd = tmp_path / "photos", tmp_path / "out", os.fsdecode(b"caf\xe9")
  for name in ("a", odd):
    toy(photos, name, 5)
  (photos / odd / "00.png").rename(photos / odd / os.fsdecode(b"\xff.png"))
  (photos / odd / os.fsdecode(b"\xfe.txt")).touch()
  done = CliRunner().invoke(cli.app, ["protect", str(photos), str(out), "--yes", "--seed", "1"])
  assert done.exit_code in (0, 4), done.exception
  assert "caf\\udce9: 5" in done.output
  assert "caf\\udce9/\\udcfe.txt: no picture (.txt)" in done.output
  assert names_in(out) == [name for name in names_in(photos) if name.endswith("png")]
  assert "udcfe.txt" in (tmp_path / "out.private" / "page" / "index.html").read_text()
  done = CliRunner().invoke(cli.app, ["restore", str(out), str(tmp_path / "back")])
  assert done.exit_code == 0, done.exception
  for name in names_in(out):
    with Image.open(tmp_path / "back" / name) as back, Image.open(photos / name) as original:
      np.testing.assert_array_equal(back, original)
