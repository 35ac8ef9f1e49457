"""Classes, splits, and everything that is left out, by name."""

import errno
import os
import shutil

import numpy as np
import pytest
import samples
from PIL import Image

from miue_jax.pictures import listing, names, survey
from miue_jax.settings import errors
from miue_jax.settings.errors import UserError


@pytest.fixture
def tree(tmp_path):
  """Returns `tree(*paths)`, which writes a picture at every path of a new folder."""

  def make(*paths):
    for number, path in enumerate(paths):
      (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
      pixels = samples.soft(np.random.default_rng(number), 8, 9)
      Image.fromarray(pixels).save(tmp_path / path)
    return tmp_path

  return make


def left_out(found):
  return {item.path: item.reason for item in found.left_out}


def test_classes_counts_and_published_names(tree):
  root = tree("dog/b.jpg", "dog/a.png", "dog/a.jpg", "cat/x/1.TIF", "cat/2.jfif")
  found = survey.survey(root)
  assert found.class_names == ("cat", "dog")
  assert found.counts() == {"cat": 2, "dog": 3}
  assert [picture.path for picture in found.pictures] == [
    "cat/2.jfif", "cat/x/1.TIF", "dog/a.jpg", "dog/a.png", "dog/b.jpg"
  ]  # fmt: skip
  assert [picture.published for picture in found.pictures] == [
    "cat/2", "cat/x/1", "dog/a_jpg", "dog/a_png", "dog/b"
  ]  # fmt: skip
  assert found.left_out == found.notes == found.duplicates == ()


@pytest.mark.parametrize("splits", [("train", "val"), ("Training", "Testing"), ("TRAIN", "dev")])
def test_splits_are_recognised_at_the_top_and_said(tree, splits):
  found = survey.survey(
    tree(*(f"{split}/{c}/1.png" for split in splits for c in ("none", "train")))
  )
  assert found.class_names == ("none", "train")
  assert {picture.split for picture in found.pictures} == set(splits)
  assert "are splits" in found.notes[0]
  assert all(split in found.notes[0] for split in splits)


def test_a_class_may_be_called_train(tree):
  found = survey.survey(tree("bus/1.png", "car/1.png", "train/2019/1.png", "train/2020/2.png"))
  assert found.class_names == ("bus", "car", "train")
  assert "train is taken for a class" in found.notes[0]
  found = survey.survey(tree("test/1.png"))
  assert found.class_names == ("bus", "car", "test", "train")


def test_an_unclear_split_is_refused_by_name(tree):
  with pytest.raises(UserError, match=r"holds train, which may be a split or a class, next to bus"):
    survey.survey(tree("bus/1.png", "train/cat/1.png"))


def test_everything_else_is_named(tree):
  root = tree(
    "a/1.png", "b/1.png", "loose.png", "a/@eaDir/1.png", "__MACOSX/a/1.png", "a/.hidden.png",
    "a/thumbnails/1.png", "out/a/1.png",
  )  # fmt: skip
  (root / "a/notes.txt").write_text("x")
  (root / "a/broken.jpg").write_bytes(b"x")
  (root / "a/empty.png").touch()
  (root / "a/Thumbs.db").touch()
  (root / "a/x\n.png").write_bytes(b"x")
  (root / "nothing/inside").mkdir(parents=True)
  (root / "a/link.png").symlink_to(root / "a/1.png")
  (root / "a/gone.png").symlink_to(root / "nowhere")
  os.mkfifo(root / "a/pipe.png")
  shutil.copy(root / "a/1.png", root / "b/copy.png")
  (root / "out.key").touch()
  (root / "a/IMG_1.CR3").touch()
  found = survey.survey(root, exclude=[root / "out", root / "out.key"])
  assert left_out(found) == {
    "loose.png": "a loose picture: it is in no class folder",
    "a/@eaDir": "a folder of the system",
    "__MACOSX": "a folder of the system",
    "a/.hidden.png": "a hidden file",
    "a/thumbnails": "a folder of thumbnails",
    "out": "the output",
    "out.key": "a file of this program",
    "a/notes.txt": "no picture (.txt)",
    "a/IMG_1.CR3": "raw data of a camera (.cr3): export it as TIFF or PNG",
    "a/broken.jpg": "cannot be decoded (unknown format): repair or remove it.",
    "a/empty.png": "cannot be decoded (it is empty): repair or remove it.",
    "a/Thumbs.db": "a file of the system",
    "a/x\n.png": "its name holds control characters",
    "nothing": "a folder without pictures",
    "a/link.png": "a link",
    "a/gone.png": "a broken link",
    "a/pipe.png": "a named pipe",
  }
  assert [picture.path for picture in found.pictures] == ["a/1.png", "b/1.png", "b/copy.png"]
  assert found.duplicates == (("a/1.png", "b/copy.png"),)
  text = found.describe()
  assert "a/x\\n.png: its name holds control characters" in text
  assert "a/1.png = b/copy.png" in text
  assert "3 pictures in 2 classes" in text


def test_strict_stops_at_a_broken_file(tree):
  root = tree("a/1.png")
  (root / "a/broken.jpg").write_bytes(b"x")
  with pytest.raises(UserError, match=r"a/broken.jpg cannot be decoded"):
    survey.survey(root, strict=True)


@pytest.fixture
def locked(monkeypatch):
  """Returns `locked(folder)`, which takes away the permission to list a folder, also from root."""

  def lock(folder):
    real = {name: getattr(os, name) for name in ("scandir", "stat")}

    def refusing(name):
      def look(path=".", *arguments, **options):
        closed = folder if name == "scandir" else f"{folder}/"
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(str(closed)):
          raise PermissionError(errno.EACCES, "Permission denied", path)
        return real[name](path, *arguments, **options)

      return look

    for name in real:
      monkeypatch.setattr(os, name, refusing(name))

  return lock


def test_a_folder_without_permission_is_left_out_by_name(tree, locked):
  root = tree("a/1.png", "a/closed/2.png", "b/3.png")
  locked(root / "a/closed")
  found = survey.survey(root)
  assert left_out(found) == {"a/closed": "it cannot be read (Permission denied)"}
  assert [picture.path for picture in found.pictures] == ["a/1.png", "b/3.png"]
  with pytest.raises(UserError, match=r"a/closed.*: Permission denied"):
    survey.survey(root, strict=True)


def test_the_whole_folder_without_permission_is_refused(tree, locked):
  root = tree("a/1.png")
  locked(root)
  with pytest.raises(UserError, match=r"Cannot (list|read) .*: Permission denied"):
    survey.survey(root)


def test_a_link_that_cannot_be_followed_is_left_out(tree, monkeypatch):
  root = tree("a/1.png", "b/2.png")
  (root / "a/gone.png").symlink_to("x")
  readlink = os.readlink

  def missing(path, *arguments, **options):  # as links in /proc are
    if str(path).endswith("gone.png"):
      raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
    return readlink(path, *arguments, **options)

  monkeypatch.setattr(os, "readlink", missing)
  found = survey.survey(root, exclude=[root / "out"])
  # Newer versions of Python follow a link as far as they can.
  reasons = {"it cannot be read (No such file or directory)", listing.BROKEN_LINK}
  assert left_out(found).keys() == {"a/gone.png"}
  assert left_out(found)["a/gone.png"] in reasons


def test_labels_of_a_flat_folder(tree):
  root = tree("1.png", "2.png", "sub/3.png", "4.png")
  (root / "labels.csv").write_text("Class,file\ncat,1.png\ndog,./2.png\ncat,sub/3.png\ndog,9.png\n")
  found = survey.survey(root, labels=root / "labels.csv")
  assert {p.path: p.class_name for p in found.pictures} == {
    "1.png": "cat", "2.png": "dog", "sub/3.png": "cat"
  }  # fmt: skip
  assert left_out(found) == {
    "4.png": "no class in the file of labels",
    "9.png": "in the labels only",
    "labels.csv": "no picture (.csv)",
  }


def test_labels_may_have_paths_of_windows(tree):
  root = tree("sub/1.png", "a\\b.png", "a/b.png", "2.png")
  (root / "labels.csv").write_text("file,class\nsub\\1.png,cat\na\\b.png,dog\n.\\2.png,red\n")
  found = survey.survey(root, labels=root / "labels.csv")
  assert {p.path: p.class_name for p in found.pictures} == {
    "sub/1.png": "cat", "a\\b.png": "dog", "2.png": "red"
  }  # fmt: skip


@pytest.mark.parametrize(
  ("text", "names"),
  [
    ("file;class\r\n1.png;red, green\r\n2.png;\u00c4\r\n", {"red, green", "\u00c4"}),
    ("class\tfile\nred\t1.png\nblue; dark\t2.png\n", {"red", "blue; dark"}),
    ("\ufefffile,class\n1.png,a;b\n2.png,c\n", {"a;b", "c"}),
    ("file, class\n1.png, a\n 2.png , b c\n", {"a", "b c"}),
    ("file;class\r\n1.png;a\r\n;\r\n2.png;b\r\n ; \r\n", {"a", "b"}),  # rows that were emptied
  ],
)
def test_labels_may_be_separated_as_spreadsheets_do(tree, text, names):
  root = tree("1.png", "2.png")
  (root / "labels.csv").write_bytes(text.encode())
  found = survey.survey(root, labels=root / "labels.csv")
  assert {picture.class_name for picture in found.pictures} == names


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("", r"labels\.csv"),
    ("x,y\n1.png,cat\n", r"labels\.csv needs a first line"),
    ("file,class\n1.png\n", r"^Row 2 of .*labels\.csv does not have 2 columns: repair it"),
    ("file,class\n1.png,\n", r"^Row 2 of .*labels\.csv has no class: repair it"),
    ('file,class\n"', r"labels\.csv is not a CSV file"),
    ("file,class\n1.png,cat\n1.png,dog\n", r"^Row 3 .*csv names 1\.png again, with another class:"),
  ],
)
def test_unusable_labels_are_refused(tree, text, said):
  root = tree("1.png")
  (root / "labels.csv").write_text(text)
  with pytest.raises(UserError, match=said):
    survey.survey(root, labels=root / "labels.csv")


def test_labels_may_compose_accents_that_names_of_files_decompose(tree):
  root = tree("a\u0308.png", "o\u0308/1.png", "\u00fc.png", "u\u0308.png")
  (root / "labels.csv").write_text(
    "file,class\n\u00e4.png,cat\n\u00f6\\1.png,dog\n\u00fc.png,red\nu\u0308.png,blue\n"
  )
  found = survey.survey(root, labels=root / "labels.csv")
  assert {picture.path: picture.class_name for picture in found.pictures} == {
    "a\u0308.png": "cat", "o\u0308/1.png": "dog", "\u00fc.png": "red", "u\u0308.png": "blue"
  }  # fmt: skip


def test_labels_may_be_utf_16_as_unicode_text_of_spreadsheets_is(tree):
  root = tree("1.png", "\u00e4.png")
  text = "file\tclass\r\n1.png\tdog\r\n\u00e4.png\t\u00c4\r\n"
  (root / "labels.txt").write_bytes(text.encode("utf-16"))
  found = survey.survey(root, labels=root / "labels.txt")
  assert {p.path: p.class_name for p in found.pictures} == {"1.png": "dog", "\u00e4.png": "\u00c4"}


@pytest.mark.parametrize("row", ["1.png,\u00c4", "\u00e4.png,cat"])
def test_labels_of_an_old_encoding_are_refused_by_row(tree, row):
  root = tree("1.png", "2.png", "\u00e4.png")
  (root / "labels.csv").write_bytes(f"file,class\n2.png,dog\n{row}\n".encode("cp1252"))
  with pytest.raises(UserError, match=r"^Row 3 of .*labels.csv is not UTF-8: save the file as CSV"):
    survey.survey(root, labels=root / "labels.csv")


def test_a_name_that_is_no_utf8_has_a_label(tree):
  root = tree("1.png", "\udce9.png")
  (root / "labels.csv").write_bytes(b"file,class\n1.png,dog\n\xe9.png,cat\n")
  found = survey.survey(root, labels=root / "labels.csv")
  assert {picture.class_name for picture in found.pictures} == {"cat", "dog"}


def test_labels_with_other_columns_or_other_paths_say_what_they_have(tree):
  root = tree("1.png", "2.png")
  (root / "labels.csv").write_text("filename,label\n1.png,cat\n")
  with pytest.raises(UserError, match=r"columns file and class, but begins with 'filename,label':"):
    survey.survey(root, labels=root / "labels.csv")
  (root / "labels.csv").write_text("file,class\nflat/1.png,cat\nflat/2.png,dog\n")
  said = r"labels.csv names no picture in .*, but flat/1\.png: write paths .*, such as [12]\.png\.$"
  with pytest.raises(UserError, match=said):
    survey.survey(root, labels=root / "labels.csv")


def test_pictures_without_classes(tree):
  found = survey.survey(tree("1.png", "sub/2.png"), unlabelled=True)
  assert [(p.path, p.class_name) for p in found.pictures] == [("1.png", ""), ("sub/2.png", "")]
  assert found.describe() == "2 pictures without classes; folders are not taken for classes."


def test_a_folder_without_pictures_is_not_asked_for_classes_that_nobody_needs(tree):
  root = tree()
  (root / "notes.txt").write_text("no picture")
  with pytest.raises(UserError) as raised:
    survey.survey(root, unlabelled=True)
  said = str(raised.value)
  assert said.startswith(f"{root} has no pictures (1 left out, such as notes.txt: ")
  assert said.endswith(": correct the path.")


def test_a_folder_without_classes_is_refused(tree):
  with pytest.raises(UserError, match=r"no pictures in class folders \(2 left .*1.png"):
    survey.survey(tree("1.png", "2.png"))
  with pytest.raises(UserError, match="is not a folder"):
    survey.survey(tree() / "absent")


def test_long_and_foreign_names_are_published_under_short_ones(tree):
  root = tree("a/" + "x" * 240 + ".png", "a/" + "x" * 240 + ".jpg")
  first, second = survey.survey(root).pictures
  assert first.published != second.published
  assert max(len(first.published), len(second.published)) < 210
  assert names.is_plain(first.published)


def test_names_that_are_no_utf8_are_shown_escaped():
  assert errors.escaped("a\udce9\x1b.png") == "a\\udce9\\x1b.png"
  assert names.is_plain("a/\udce9.png")
