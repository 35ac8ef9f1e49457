"""Tests that pictures which were renamed or copied are known by their pixels."""

import dataclasses
import shutil

import numpy as np
import pytest
from protections import files, run
from toy_pictures import toy

from miue_jax.owner import known, omitted, protect, published
from miue_jax.owner.load import Loaded
from miue_jax.owner.request import Request
from miue_jax.owner.restore import restore
from miue_jax.pictures import decode, entries
from miue_jax.pictures import restore as pictures
from miue_jax.pictures.entries import Content, Entry
from miue_jax.pictures.key import Key, digest
from miue_jax.pictures.survey import Found, Survey

CONTENT = Content(entries.DELTA, (9, 9, 3), 8, np.ones((8, 8, 3), np.int8), b"", None, b"")


def loaded(**pixels):
  """Returns pictures of classes: `a_x=1` is the file a/x.png with pixels number 1."""
  paths = [name.replace("_", "/") + ".png" for name in pixels]
  found = tuple(Found(path, path[0], None, path[:-4]) for path in paths)
  empty = np.zeros((len(paths), 8, 8, 3), np.uint8)
  return Loaded(found, tuple(map(mark, pixels.values())), empty, empty, empty[..., 0], ())


def mark(number):
  return bytes([number]) * 32


@pytest.fixture
def secret(tmp_path):
  """Returns a key of the pictures a/x.png, a/y.png and b/z.png, with pixels 1, 2 and 3."""
  with Key.create(tmp_path / "out.key", {}) as made:
    for found, source in zip(*dataclasses.astuple(loaded(a_x=1, a_y=2, b_z=3))[:2], strict=True):
      path, class_name = found[:2]
      made.add(Entry(path, class_name, path, source[::-1] + b"", source), CONTENT)
    yield made


@pytest.mark.parametrize(
  ("there", "moves"),
  [
    ({"a_x": 1, "a_y": 2, "b_z": 3}, {}),
    ({"a_new": 1, "a_y": 2}, {"a/x.png": "a/new.png"}),
    ({"a_x": 2, "a_y": 1}, {"a/x.png": "a/y.png", "a/y.png": "a/x.png"}),
    ({"a_y": 1, "a_z": 2}, {"a/x.png": "a/y.png", "a/y.png": "a/z.png"}),
    ({"a_x": 9, "a_old": 1}, {"a/x.png": "a/old.png"}),  # another picture has its name
    ({"a_x": 1, "a_copy": 1}, {}),
    ({"b_x": 1}, {}),  # another class
    ({"a_new": 1, "a_newer": 1}, {"a/x.png": "a/new.png"}),
  ],
)
def test_renamed_pictures_are_found(secret, there, moves, said):
  pictures = loaded(**there)
  assert {entry.name: path for entry, path in known.renamed(pictures, secret)} == moves
  known.rename(pictures, secret)
  assert bool(said()) == bool(moves)
  published = {entry.published: entry.name for entry in secret.entries}
  assert published == {"a/x.png": "a/x.png", "a/y.png": "a/y.png", "b/z.png": "b/z.png"} | moves


def test_another_class_of_published_pictures_is_noted_and_the_verdict_removed(
  secret, tmp_path, said
):
  (verdict := tmp_path / "verdict.json").touch()
  pictures = loaded(a_x=1, a_y=2, b_z=9)  # b/z.png is another picture now
  known.reclassify(pictures, secret, verdict)
  assert verdict.exists()
  assert not said()
  moved = [dataclasses.replace(found, class_name="b") for found in pictures.pictures]
  known.reclassify(dataclasses.replace(pictures, pictures=tuple(moved)), secret, verdict)
  assert not verdict.exists()
  assert "published: 2 pictures (a/x.png, a/y.png). They keep" in said()[0]
  assert {entry.class_name for entry in secret.entries} == {"b"}
  assert secret.former == []
  assert np.array_equal(secret.load(secret.entries[0]).delta, CONTENT.delta)


def test_a_copy_is_known_with_its_perturbation_and_a_new_picture_is_not(secret, tmp_path):
  pictures = loaded(b_copy=1, a_x=1, a_new=7)
  found = known.of_missing(pictures, np.arange(3), secret, tmp_path)
  assert {number: one.entry.name for number, one in found.items()} == {0: "a/x.png", 1: "a/x.png"}
  assert found[0].delta is not None


def test_the_published_file_must_be_there_if_the_key_has_the_original_instead(secret, tmp_path):
  (entry,) = (entry for entry in secret.entries if entry.name == "a/x.png")
  whole = dataclasses.replace(CONTENT, how=entries.FILE, delta=None)
  secret.add(dataclasses.replace(entry, name="a/w.png"), whole)
  assert known.of_missing(loaded(b_copy=1), np.arange(1), secret, tmp_path) == {}


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_no_picture_is_published_with_two_perturbations(photos, tmp_path, kind):
  out, suffix = tmp_path / "out", {"png": "png", "jpeg": "jpg"}[kind]
  first, _ = run(photos, out, format=kind)
  before = files(out)
  (photos / "a" / "01.png").rename(photos / "a" / "neu.png")
  (photos / "bbb" / "02.png").rename(photos / "bbb" / "00a.png")
  found, said = run(photos, out, format=kind)
  assert "Renamed since they were published: 2 pictures (a/neu.png, bbb/00a.png)." in said
  assert "new: 0." in said
  assert "No longer" not in said
  assert (files(out), found) == (before, first)
  with published.opened(out, None, None, None) as pairs:
    assert pairs.complete
  (photos / "a" / "03.png").rename(photos / "bbb" / "moved.png")
  shutil.copy(photos / "a" / "04.png", photos / "a" / "copy.png")
  _, said = run(photos, out, format=kind)
  assert "No longer" in said
  assert "1 picture (a/03.png). What was published stays" in said
  after = files(out)
  assert {name: after[name] for name in before} == before
  assert after.keys() - before.keys() == {f"bbb/moved.{suffix}", f"a/copy.{suffix}"}
  assert after[f"bbb/moved.{suffix}"] == before[f"a/03.{suffix}"]
  assert after[f"a/copy.{suffix}"] == before[f"a/04.{suffix}"]
  assert restore(out, tmp_path / "back", None, None)


def test_a_picture_whose_name_another_one_had_is_known_when_it_is_back(secret, tmp_path):
  for number in (7, 8):  # two later pictures of this name and published file
    secret.add(Entry("a/x.png", "a", "a/x.png", mark(number + 10), mark(number)), CONTENT)
  assert {entry.source for entry in secret.former} == {mark(1), mark(7)}
  assert secret.left == []
  back = loaded(a_x=1)
  assert known.renamed(back, secret) == []
  (one,) = known.of_missing(back, np.arange(1), secret, tmp_path).values()
  assert one.entry.source == mark(1)
  assert known.protected(back, secret) == ["a/x.png"]


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_published_file_whose_original_gave_its_name_away_is_no_foreign_file(photos, tmp_path):
  out = tmp_path / "out"
  first, _ = run(photos, out)
  before = files(out)
  gone = (photos / "a" / "01.png").read_bytes()
  (photos / "a" / "02.png").replace(photos / "a" / "01.png")
  found, said = run(photos, out)
  assert "another picture has the name: 1 picture, published as a/01.png." in said
  assert "published no pictures" not in said
  assert found.judgement == first.judgement
  with Key.open(tmp_path / "out.key") as secret:
    outcome = pictures.restore(out, tmp_path / "back", secret)
  assert len(outcome.restored) == len(before)
  toy(photos, "a", 1, start=70)
  (photos / "a" / "70.png").replace(photos / "a" / "02.png")  # a new picture
  (photos / "a" / "again.png").write_bytes(gone)
  _, said = run(photos, out)
  assert "Renamed since they were published: 1 picture (a/again.png)." in said
  assert "new: 1." in said
  after = files(out)
  assert {name: after[name] for name in before} == before
  assert after.keys() - before.keys() == {"a/02_.png"}
  toy(photos, "a", 1, start=71)
  (photos / "a" / "71.png").replace(photos / "a" / "03.png")
  _, said = run(photos, out, format="webp")  # which is for new names
  assert "Other pixels than when it was published: 1 picture (a/03.png)." in said
  assert {name for name, content in files(out).items() if content != after[name]} == {"a/03.png"}


def test_pictures_of_a_renamed_class_are_not_sent_to_another_folder(secret, said):
  there = loaded(c_x=1, c_y=2, c_new=9)
  found = Survey("photos", there.pictures, (), (), ())
  omitted.lines(found, there, ("a", "b"), secret.entries)
  first, *others = said()
  assert first.startswith("NOT published, because the class is new (c): 3 pictures. Protect")
  assert others == [
    *(f"  {picture.path}" for picture in there.pictures),
    "2 pictures of these had another class when published (a): give the class its old name again, "
    "because another OUT would give them a second perturbation.",
  ]
  omitted.lines(found, there.take([2]), ("a", "b"), secret.entries)
  assert len(said()) == 2  # the sentence and the picture
  omitted.lines(found, there.take([0]), ("a", "b"), secret.entries)
  lines = said()
  assert len(lines) == 3
  assert "another OUT" not in lines[0]  # which would give them a second perturbation


def test_keys_in_folders_tell_which_pictures_they_know(secret, tmp_path, said):
  (tmp_path / "broken.key").write_bytes(b"miue-jax")
  folders = [tmp_path, tmp_path / "missing"]
  known.tell_protected(loaded(a_x=1, c_new=9, b_y=3), folders, None, " Beware.")
  place = tmp_path / "out.key"
  assert said() == [
    f"Protected already with the key {place}: 2 pictures (a/x.png, b/y.png). Beware."
  ]


@pytest.mark.usefixtures("quick")
def test_a_second_protection_elsewhere_names_what_is_protected_already(
  photos, tmp_path, monkeypatch
):
  path = "a/00.png"
  source = digest(decode.read(photos / path).channels)
  with Key.create(tmp_path / "first.key", {}) as made:
    made.add(Entry(path, "a", path, source[::-1], source), CONTENT)
  (tmp_path / "elsewhere").mkdir()
  lines = []

  def say(line):
    lines.append(line)
    if line.startswith("Protected already"):
      raise KeyboardInterrupt

  monkeypatch.setattr(known, "say", say)
  with pytest.raises(KeyboardInterrupt):
    protect.protect(Request(photos, tmp_path / "elsewhere" / "out", seed=1), print)
  assert lines[-1] == (
    f"Protected already with the key {tmp_path / 'first.key'}: 1 picture (a/00.png). Publish one "
    "version of each only, because anyone who has two can average them."
  )
  assert not (tmp_path / "elsewhere" / "out.key").exists()
