"""Tests what is said where a key, or what it is to restore, is the wrong one."""

import shutil

import numpy as np
import pytest
from PIL import Image

from miue_jax.owner.restore import restore
from miue_jax.pictures import publish, survey
from miue_jax.pictures.key import Key
from miue_jax.settings.errors import UserError


@pytest.fixture
def place(tmp_path, monkeypatch):
  """Returns a folder with the published folder `out` of two pictures, their key, and another."""
  monkeypatch.chdir(tmp_path)
  rng = np.random.default_rng(0)
  for name in ("a/1.png", "b/2.png"):
    (tmp_path / "photos" / name).parent.mkdir(parents=True)
    Image.fromarray(rng.integers(60, 200, (20, 24, 3), np.uint8)).save(tmp_path / "photos" / name)
  shutil.copy("photos/a/1.png", "photos/b/copy.png")
  delta = np.full((4, 4, 3), 8, np.int8)
  with Key.create(tmp_path / "out.key", {}) as key:
    for found in survey.survey(tmp_path / "photos").pictures:
      publish.publish(tmp_path / "photos", found, delta, tmp_path / "out", key)
  Key.create(tmp_path / "other.key", {}).close()
  (tmp_path / "other.private").mkdir()
  (tmp_path / "other.private" / "verdict.json").write_text("{}")  # it would be refused if read
  return tmp_path


def test_a_wrong_key_is_called_wrong_and_repeats_no_verdict(place, said):
  assert not restore(place / "out", place / "back", place / "other.key", None)
  (line,) = said()
  assert line.startswith("Nothing was restored: the key ")
  assert "knows none of 3 pictures in" in line
  assert "Give the key that was made with them" in line


def test_a_wrong_key_with_the_same_names_is_called_wrong(place, said):
  assert not restore(place / "photos", place / "back", place / "out.key", None)
  (line,) = said()
  assert "knows none of 3 pictures in" in line


def test_strangers_next_to_known_pictures_are_named(place, said):
  Image.new("RGB", (9, 9)).save(place / "out" / "stranger.png")
  assert not restore(place / "out", place / "back", place / "out.key", None)
  assert said()[:3] == [
    f"Restored to {place / 'back'}: 3 originals.",
    "Not restored: 1 file:",
    "  stranger.png: not in this key, or altered, as by saving as JPEG",
  ]


def test_a_wrong_key_writes_no_archive(place, said):
  images, labels = np.zeros((4, 5, 6), np.uint8), np.array([0, 1, 0, 1])
  np.savez(place / "out" / "x.npz", x_train=images, y_train=labels)
  assert not restore(place / "out" / "x.npz", place / "back", place / "out.key", None)
  assert "knows none of 4 images in" in said()[0]
  assert not (place / "back").exists()


def test_a_file_is_refused_before_its_key_is_looked_for(place):
  with pytest.raises(UserError, match=r"out\.key is neither a folder nor an archive"):
    restore(place / "out.key", place / "back", None, None)


def test_a_class_alone_comes_back_under_its_own_names(place):
  assert restore(place / "out" / "b", place / "back", place / "out.key", None)
  found = [path.relative_to(place / "back").as_posix() for path in (place / "back").rglob("*.png")]
  assert sorted(found) == ["b/2.png", "b/copy.png"]


def test_a_picture_that_is_in_the_way_is_not_called_missing(place, said):
  shutil.copytree(place / "photos" / "a", place / "back" / "b")
  (place / "back" / "b" / "1.png").rename(place / "back" / "b" / "2.png")
  assert not restore(place / "out" / "b", place / "back", place / "out.key", None)
  lines = said()
  assert any(line.endswith("b/2.png exists and is another picture") for line in lines)
  assert lines[-2:] == ["Known to the key, but not found: 1 picture:", "  a/1.png"]


def test_originals_are_not_restored_among_the_published_files(place):
  with pytest.raises(UserError, match=r"out is the folder of published pictures: choose a folder"):
    restore(place / "out", place / "a" / ".." / "out", None, None)
