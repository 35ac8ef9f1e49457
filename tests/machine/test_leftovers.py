"""Tests that leftovers of killed programs are removed, and nothing else."""

import os
import subprocess
import sys

import pytest

from miue_jax.machine import leftovers


@pytest.fixture(scope="module")
def dead():
  """The number of a process that has ended."""
  process = subprocess.Popen([sys.executable, "-c", ""])
  process.wait()
  return process.pid


def names_in(folder):
  return sorted(path.name for path in folder.iterdir())


def test_a_private_folder_is_private_and_removed(tmp_path):
  with leftovers.private_folder(tmp_path / "images") as folder:
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "file").write_text("")
    assert len(names_in(tmp_path)) == 1
  assert names_in(tmp_path) == []


def test_folders_of_the_dead_are_removed(tmp_path, dead):
  with leftovers.private_folder(tmp_path / "images") as folder:
    own = folder.name
  stem = own.removesuffix(str(os.getpid()))
  alive = f"{stem}{os.getppid()}"
  others = [alive, f"{stem}x", ".images-elsewhere-1", f".images2{stem}{dead}"]
  for name in (*others, own, f"{stem}{dead}"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "clean.png").write_text("")
  with leftovers.private_folder(tmp_path / "images"):
    assert names_in(tmp_path) == sorted([*others, own])
  assert names_in(tmp_path) == sorted(others)


def test_a_sweep_removes_leftovers_only(tmp_path):
  kept = ["config.json", ".hidden", ".locks/alone.lock", "poison/delta.npy", "images/.a.png.12",
          "checkpoints/.tmp.12", ".images", "images-1/a"]  # fmt: skip
  gone = [".config.json.123", "poison/.delta.npy.9", ".images-host-7/new/train/0.png",
          ".restored-x/a", "report/.index.html.3"]  # fmt: skip
  for name in kept + gone:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("")
  leftovers.sweep(tmp_path, ("images", "restored"), ("checkpoints",))
  found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
  assert found == set(kept)
  assert not (tmp_path / ".images-host-7").exists()


def test_what_was_set_aside_comes_back_after_a_failure_or_a_kill(tmp_path):
  (tmp_path / "images").mkdir()
  (tmp_path / "images" / "old").write_text("")

  def failing():
    with leftovers.set_aside(tmp_path / "images"):
      assert not (tmp_path / "images").exists()
      raise KeyError

  with pytest.raises(KeyError):
    failing()
  assert names_in(tmp_path / "images") == ["old"]
  (tmp_path / "images").rename(tmp_path / ".images-old")  # as a kill leaves it
  leftovers.sweep(tmp_path, ("images",), ())
  assert names_in(tmp_path / "images") == ["old"]
  with leftovers.set_aside(tmp_path / "images"):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "new").write_text("")
  assert names_in(tmp_path) == ["images"]
  assert names_in(tmp_path / "images") == ["new"]
