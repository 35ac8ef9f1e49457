import itertools
import os
import pathlib
import shutil
import tarfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from miue_jax.data import sources
from miue_jax.machine import reading
from miue_jax.pictures import names
from miue_jax.settings import config
from miue_jax.settings.errors import UserError


def load(path, need_test=False, test_fraction=0.0, **settings):
  data = config.Data(source="folder", path=str(path), test_fraction=test_fraction, **settings)
  return sources.load(data, need_test=need_test)


def picture(path, value=0, mode="RGB", size=(4, 3)):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new(mode, size, value if mode == "L" else (value,) * len(mode)).save(path)


def values(split):
  return split.images[:, 0, 0, 0].tolist()


@pytest.fixture
def tree(tmp_path):
  """Writes two classes with two training images and one test image each, of different values."""
  paths = ["train/b/1", "train/b/2", "train/a/2", "train/a/10", "test/a/1", "test/b/1"]
  for value, name in enumerate(paths):
    picture(tmp_path / f"{name}.png", 10 * value)
  return tmp_path


def test_classes_and_files_are_sorted(tree):
  loaded = load(tree)
  assert loaded.class_names == ("a", "b")
  assert loaded.train.files == ("10", "2", "1", "2")
  assert values(loaded.train) == [30, 20, 0, 10]
  assert loaded.train.labels.tolist() == [0, 0, 1, 1]
  assert values(loaded.test) == [40, 50]
  assert loaded.test.labels.tolist() == [0, 1]
  assert loaded.name == tree.name


def test_order_does_not_depend_on_the_file_system(tree, monkeypatch):
  expected = load(tree).fingerprint
  real = os.scandir

  class Backwards:
    def __init__(self, path):
      self.entries = real(path)

    def __enter__(self):
      return reversed(list(self.entries))

    def __exit__(self, *_):
      self.entries.close()

  monkeypatch.setattr(reading.os, "scandir", Backwards)
  assert load(tree).fingerprint == expected


def test_single_tree_holds_out_a_test_set(tmp_path):
  for name, index in itertools.product("ab", range(10)):
    picture(tmp_path / name / f"{index}.png", index)
  loaded = load(tmp_path, need_test=True, test_fraction=0.2)
  assert np.bincount(loaded.test.labels).tolist() == [2, 2]
  for split in (loaded.train, loaded.test):
    assert [str(value) for value in values(split)] == list(split.files)


def test_every_format_in_any_case_and_nested(tmp_path):
  suffixes = ["png", "PNG", "jpg", "JPEG", "jpe", "webp", "Bmp", "TIF", "tiff", "gif", "ppm"]
  for index, suffix in enumerate(suffixes):
    picture(tmp_path / "a" / "x" / f"{index}.{suffix}", 128)
    picture(tmp_path / "b" / "x" / "y.z" / f"{index}.{suffix}", 128)
  loaded = load(tmp_path)
  assert loaded.train.files == (
    *sorted(f"x/{index}" for index in range(11)),
    *sorted(f"x/y.z/{index}" for index in range(11)),
  )
  assert np.abs(loaded.train.images[:].astype(int) - 128).max() <= 2


def test_other_and_hidden_files_are_ignored_and_counted(tree, caplog):
  (tree / "train" / "a" / "notes.txt").write_text("x")
  (tree / "train" / "a" / "Thumbs.db").write_text("x")
  (tree / "train" / "a" / ".hidden.png").write_text("x")
  (tree / "train" / ".git").mkdir()
  (tree / "train" / "labels.csv").write_text("x")
  caplog.set_level("INFO", logger="miue_jax")
  assert load(tree).train.files == ("10", "2", "1", "2")
  for line in (
    "Left out (5):",
    "train/a/notes.txt: no picture (.txt)",
    "train/a/Thumbs.db: a file of the system",
    "train/a/.hidden.png: a hidden file",
    "train/.git: a hidden folder",
    "train/labels.csv: no picture (.csv)",
  ):
    assert line in caplog.text


def test_only_wanted_images_are_decoded(tree):
  picture(tree / "train" / "c" / "1.png")
  (tree / "train" / "c" / "2.png").write_text("broken")
  assert load(tree, classes=("a", "b")).num_classes == 2
  with pytest.raises(UserError, match=r"train/c/2.png cannot be decoded"):
    load(tree)


def test_a_gray_tree_has_one_channel(tmp_path):
  for name, index in itertools.product("ab", range(2)):
    picture(tmp_path / name / f"{index}.png", 100 + index, "L")
  sixteen = np.full((3, 4), 257 * 50, np.uint16)
  Image.fromarray(sixteen).save(tmp_path / "a" / "2.png")
  loaded = load(tmp_path)
  assert loaded.train.images.shape == (5, 3, 4, 1)
  assert values(loaded.train) == [100, 101, 50, 100, 101]


def test_one_colour_image_makes_the_whole_tree_colour(tmp_path):
  for split, name, index in itertools.product(("train", "test"), "ab", range(2)):
    picture(tmp_path / split / name / f"{index}.png", 100, "L")
  picture(tmp_path / "test" / "b" / "9.png", 30, "RGB")
  loaded = load(tmp_path)
  assert loaded.train.images.shape == (4, 3, 4, 3)
  assert loaded.test.images.shape == (5, 3, 4, 3)


def test_sizes_that_differ_need_data_size(tree):
  picture(tree / "train" / "b" / "3.png", 60, size=(5, 3))
  with pytest.raises(UserError, match=r"b/3.png is 5 x 3 pixels but .*4 x 3: set data.size"):
    load(tree)
  assert load(tree, size=2).train.images.shape == (5, 2, 2, 3)


def test_links_are_followed_but_not_in_circles(tree, tmp_path_factory):
  outside = tmp_path_factory.mktemp("outside")
  picture(outside / "far" / "1.png", 90)
  picture(outside / "file.png", 91)
  a = tree / "train" / "a"
  (a / "more").symlink_to(outside / "far", target_is_directory=True)
  (a / "link.png").symlink_to(outside / "file.png")
  (a / "loop").symlink_to(tree / "train", target_is_directory=True)
  (outside / "far" / "back").symlink_to(a, target_is_directory=True)
  files = load(tree).train.files
  assert {"more/1", "link", "2", "10"} <= set(files[: files.index("1")])
  assert len(set(zip(files, load(tree).train.labels.tolist(), strict=True))) == len(files)


def test_a_class_folder_may_be_a_link(tree, tmp_path_factory):
  outside = tmp_path_factory.mktemp("outside")
  for index in range(2):
    picture(outside / f"{index}.png")
  (tree / "train" / "c").symlink_to(outside, target_is_directory=True)
  assert load(tree).class_names == ("a", "b", "c")


def test_a_broken_link_is_named(tree):
  (tree / "train" / "a" / "gone.png").symlink_to(tree / "nowhere.png")
  with pytest.raises(UserError, match=r"gone.png is a broken link, not a file"):
    load(tree)


def remove(part):
  return lambda tree: shutil.rmtree(tree / part)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (remove("train"), "has a folder test but no folder train"),
    (remove("train/a"), "Class 'a' is in .*test but not in .*train"),
    (
      lambda tree: [p.unlink() for p in tree.glob("train/*/*")],
      "train has no images in class",
    ),
    (
      lambda tree: [p.unlink() for p in tree.glob("test/*/*")],
      "test has no images in class",
    ),
    (
      lambda tree: [remove(f"train/{c}")(tree) for c in "ab"],
      "train has no images in class",
    ),
    (lambda tree: (tree / "train/a/2.png").unlink(), "Class 'a' of .* has 1 training image"),
    (lambda tree: (tree / "train/a/2.png").write_bytes(b"x"), "a/2.png cannot be decoded"),
  ],
)
def test_every_mistake_is_named(tree, change, message):
  change(tree)
  with pytest.raises(UserError, match=message):
    load(tree)


@pytest.mark.parametrize("names", [("Train", "Test"), ("Training", "Testing"), ("train", "val")])
def test_other_names_of_splits(tree, names):
  for old, new in zip(("train", "test"), names, strict=True):
    (tree / old).rename(tree / new)
  loaded = load(tree)
  assert loaded.class_names == ("a", "b")
  assert values(loaded.train) == [30, 20, 0, 10]
  assert values(loaded.test) == [40, 50]


def test_a_class_may_be_called_train(tmp_path):
  for path in ("bus/1", "bus/2", "car/1", "car/2", "train/2019/1", "train/2020/2"):
    picture(tmp_path / f"{path}.png")
  loaded = load(tmp_path)
  assert loaded.class_names == ("bus", "car", "train")
  assert loaded.train.files == ("1", "2", "1", "2", "2019/1", "2020/2")


def test_a_split_next_to_a_class_is_refused_by_name(tree):
  picture(tree / "bus" / "1.png")
  with pytest.raises(UserError, match=r"holds test, train, .*next to bus: rename or move"):
    load(tree)


def test_a_workdir_inside_the_pictures_is_no_class(tmp_path, caplog):
  for name, index in itertools.product("ab", range(2)):
    picture(tmp_path / name / f"{index}.png", index)
  picture(tmp_path / "runs" / "folder" / "images" / "train" / "a" / "0.png")
  (tmp_path / "runs" / "folder" / "config.json").write_text("{}")
  (tmp_path / "runs" / "folder" / "log.txt").write_text("")
  assert load(tmp_path).class_names == ("a", "b")
  assert "runs/folder: a workdir of this program" in caplog.text
  assert "runs: a folder without pictures" in caplog.text


def test_loose_pictures_and_system_folders_are_named(tree, caplog):
  picture(tree / "train" / "loose.png")
  picture(tree / "train" / "a" / "@eaDir" / "1.png")
  assert load(tree).train.files == ("10", "2", "1", "2")
  assert "train/loose.png: a loose picture" in caplog.text
  assert "train/a/@eaDir: a folder of the system" in caplog.text


def test_no_folder_and_no_path(tmp_path):
  with pytest.raises(UserError, match=r"absent is not a folder"):
    load(tmp_path / "absent")
  with pytest.raises(UserError, match=r"data.path is empty"):
    load("")


def test_names_that_differ_only_by_suffix_stay_distinct():
  files = ["a.jpg", "a.png", "a_jpg.png", "b.png", "c/a.png"]
  assert names.distinct_names(files) == ["a_jpg_", "a_png", "a_jpg", "b", "c/a"]


def test_no_file_has_the_name_of_a_folder():
  files = ["x.jpg", "x.png/y.png", "X_jpg.PNG/deep/z.png", "v1.jpg", "v1.2/a.png"]
  distinct = ["x_jpg_", "x.png/y", "X_jpg.PNG/deep/z", "v1", "v1.2/a"]
  assert names.distinct_names(files) == distinct


@hypothesis.given(
  st.lists(
    st.tuples(
      st.text("ab_/jpgn", min_size=1, max_size=6).filter(lambda s: s[0] != "/" != s[-1]),
      st.sampled_from(["png", "jpg", "JPG"]),
    ),
    unique=True,
  )
)
def test_distinct_names_are_distinct_and_begin_with_the_stem(parts):
  files = [f"{stem}.{suffix}" for stem, suffix in parts]
  distinct = names.distinct_names(files)
  assert len(set(distinct)) == len(files)
  for name, (stem, _) in zip(distinct, parts, strict=True):
    assert name.startswith(stem)
    assert pathlib.PurePosixPath(name).parent == pathlib.PurePosixPath(stem).parent


@pytest.mark.long
def test_all_of_cifar10_as_jpeg(real_data, tmp_path):
  with tarfile.open(real_data("cifar10_jpeg.tar.gz")) as archive:
    archive.extractall(tmp_path, filter="data")
  loaded = load(tmp_path)
  assert loaded.train.images.shape == (50_000, 32, 32, 3)
  assert loaded.test.images.shape == (10_000, 32, 32, 3)
  assert np.bincount(loaded.train.labels).tolist() == [5000] * 10
  assert np.bincount(loaded.test.labels).tolist() == [1000] * 10
  assert {"airplane", "truck"} <= set(loaded.class_names)
  for index in range(0, 50_000, 4999):
    name = loaded.class_names[loaded.train.labels[index]]
    path = tmp_path / "train" / name / f"{loaded.train.files[index]}.jpg"
    np.testing.assert_array_equal(loaded.train.images[index], np.asarray(Image.open(path)))
