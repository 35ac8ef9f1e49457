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

from miue_jax.data import folder, sources
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
  names = ["train/b/1", "train/b/2", "train/a/2", "train/a/10", "test/a/1", "test/b/1"]
  for value, name in enumerate(names):
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

  monkeypatch.setattr(folder.os, "scandir", Backwards)
  assert load(tree).fingerprint == expected


def test_single_tree_holds_out_a_test_set(tmp_path):
  for name, index in itertools.product("ab", range(10)):
    picture(tmp_path / name / f"{index}.png", index)
  loaded = load(tmp_path, need_test=True, test_fraction=0.2)
  assert np.bincount(loaded.test.labels).tolist() == [2, 2]
  for split in (loaded.train, loaded.test):
    assert [str(value) for value in values(split)] == list(split.files)


def test_every_format_in_any_case_and_nested(tmp_path):
  suffixes = ["png", "PNG", "jpg", "JPEG", "webp", "Bmp"]
  for index, suffix in enumerate(suffixes):
    picture(tmp_path / "a" / "x" / f"{index}.{suffix}", 128)
    picture(tmp_path / "b" / "x" / "y.z" / f"{index}.{suffix}", 128)
  loaded = load(tmp_path)
  assert loaded.train.files == (
    *(f"x/{index}" for index in range(6)),
    *(f"x/y.z/{index}" for index in range(6)),
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
  assert "ignored 2 files that are not images" in caplog.text


def test_only_wanted_images_are_decoded(tree):
  picture(tree / "train" / "c" / "1.png")
  (tree / "train" / "c" / "2.png").write_text("broken")
  assert load(tree, classes=("a", "b")).num_classes == 2
  with pytest.raises(UserError, match=r"train/c/2.png does not decode"):
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
    (lambda tree: [p.unlink() for p in tree.glob("train/*/*")], "has no PNG, JPEG, WebP or BMP"),
    (lambda tree: [p.unlink() for p in tree.glob("test/*/*")], "test images of .* are missing"),
    (lambda tree: [remove(f"train/{c}")(tree) for c in "ab"], "train has no class folders"),
    (lambda tree: (tree / "train/a/2.png").unlink(), "Class 'a' of .* has 1 training image"),
    (lambda tree: (tree / "train/a/2.png").write_bytes(b"x"), "a/2.png does not decode"),
  ],
)
def test_every_mistake_is_named(tree, change, message):
  change(tree)
  with pytest.raises(UserError, match=message):
    load(tree)


def test_no_folder_and_no_path(tmp_path):
  with pytest.raises(UserError, match=r"absent is not a folder"):
    load(tmp_path / "absent")
  with pytest.raises(UserError, match=r"data.path is empty"):
    load("")


def test_names_that_differ_only_by_suffix_stay_distinct():
  files = ["a.jpg", "a.png", "a_jpg.png", "b.png", "c/a.png"]
  assert folder.distinct_names(files) == ["a_jpg_", "a_png", "a_jpg", "b", "c/a"]


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
  names = folder.distinct_names(files)
  assert len(set(names)) == len(files)
  for name, (stem, _) in zip(names, parts, strict=True):
    assert name.startswith(stem)
    assert pathlib.PurePosixPath(name).parent == pathlib.PurePosixPath(stem).parent


@pytest.mark.slow
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
