"""Exports that other loaders can read, and restores that are proved by the fingerprint."""

import csv
import errno
import hashlib
import json
import os
import pathlib
import resource
import shutil
import stat
import subprocess
import zipfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from miue_jax.artefact import release
from miue_jax.artefact.poison import Poison
from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.images import LazyImages
from miue_jax.settings.errors import UserError


def make_dataset(channels=3, class_names=("cat", "dog"), files=None, count=12, seed=0):
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (count, 9, 7, channels), dtype=np.uint8)
  labels = rng.permutation(np.arange(count) % len(class_names)).astype(np.int32)
  return Dataset("tiny", Split(images, labels, files), None, tuple(class_names))


def make_poison(dataset, seed=1):
  rng = np.random.default_rng(seed)
  images = dataset.train.images[:].astype(int)
  delta = np.clip(images + rng.integers(-8, 9, images.shape), 0, 255) - images
  return Poison.make(
    dataset,
    delta.astype(np.int8),
    method="miue",
    epsilon=8 / 255,
    config={},
    seed=0,
    seconds=1.0,
  )


def poisoned_by_hand(dataset, poison):
  return (dataset.train.images[:].astype(int) + poison.delta).astype(np.uint8)


def pixels(path):
  with Image.open(path) as image:
    array = np.asarray(image)
  return array[..., None] if array.ndim == 2 else array


def read_index(directory):
  with open(directory / "index.csv", newline="", encoding="utf-8") as file:
    return list(csv.DictReader(file))


def write_index(directory, rows):
  with open(directory / "index.csv", "w", newline="", encoding="utf-8") as file:
    writer = csv.DictWriter(file, ["path", "label", "class", "sha256"])
    writer.writeheader()
    writer.writerows(rows)


def image_folder(root):
  """Lists images as torchvision's ImageFolder does: classes are the sorted folders."""
  classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
  samples = []
  for label, name in enumerate(classes):
    for folder, _, names in sorted(os.walk(root / name)):
      samples += [(pathlib.Path(folder) / file, label) for file in sorted(names)]
  return classes, samples


def tree(directory):
  return {
    path.relative_to(directory).as_posix(): path.read_bytes()
    for path in directory.rglob("*")
    if path.is_file()
  }


@pytest.fixture
def exported(tmp_path):
  """Returns an export, the folder of its poison, and the clean dataset for comparisons."""
  dataset = make_dataset()
  poison = make_poison(dataset)
  poison.save(tmp_path / "poison")
  release.export(dataset, poison, tmp_path / "images", ("png", "npz"))
  (tmp_path / "images" / "poisoned.npz").rename(tmp_path / "poisoned.npz")
  return tmp_path / "images", tmp_path / "poison", dataset


def test_a_poison_without_a_norm_is_undone(tmp_path):
  dataset = make_dataset()
  shape = dataset.train.images.shape
  target = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
  delta = target.astype(np.int16) - dataset.train.images[:]
  poison = Poison.make(
    dataset, delta, method="cuda", epsilon=8 / 255, norm="none", config={}, seed=0, seconds=1.0
  )
  poison.save(tmp_path / "poison")
  release.export(dataset, poison, tmp_path / "out", ("png", "npz"))
  assert np.array_equal(np.load(tmp_path / "out" / "poisoned.npz")["x_train"], target)
  release.restore(tmp_path / "out", tmp_path / "poison", tmp_path / "clean")
  assert np.array_equal(np.load(tmp_path / "clean" / "clean.npz")["x_train"], dataset.train.images)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_export_is_plain_and_exact(tmp_path, channels):
  dataset = make_dataset(channels)
  poison = make_poison(dataset)
  assert release.export(dataset, poison, tmp_path / "out") == tmp_path / "out"
  rows = read_index(tmp_path / "out")
  expected = poisoned_by_hand(dataset, poison)
  for i, row in enumerate(rows):
    path = tmp_path / "out" / row["path"]
    with Image.open(path) as image:
      assert (image.format, image.mode) == ("PNG", "L" if channels == 1 else "RGB")
      assert not image.info
    assert np.array_equal(pixels(path), expected[i])
    assert int(row["label"]) == dataset.train.labels[i]
    assert row["class"] == dataset.class_names[dataset.train.labels[i]] == path.parent.name
    assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
  assert len(rows) == len(dataset.train)
  # Nothing else is released, above all not the key.
  assert set(tree(tmp_path / "out")) == {row["path"] for row in rows} | {"index.csv"}


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_index_is_what_sha256sum_prints(exported):
  directory, _, _ = exported
  row = read_index(directory)[0]
  printed = subprocess.run(
    ["sha256sum", row["path"]], cwd=directory, capture_output=True, text=True, check=True
  ).stdout
  assert printed.split() == [row["sha256"], row["path"]]


@pytest.mark.parametrize(
  "class_names",
  [("cat", "dog"), [str(i) for i in range(11)], ["8", "9", "10"], ["1", "10", "2"]],
)
def test_folder_loader_numbers_classes_as_the_dataset_does(tmp_path, class_names):
  dataset = make_dataset(class_names=class_names, count=33)
  poison = make_poison(dataset)
  release.export(dataset, poison, tmp_path / "out")
  classes, samples = image_folder(tmp_path / "out" / "train")
  labels = {row["path"]: int(row["label"]) for row in read_index(tmp_path / "out")}
  assert len(classes) == len(class_names)
  assert len(samples) == len(dataset.train)
  # The numbered files of a class are in the dataset's order.
  expected = poisoned_by_hand(dataset, poison)
  order = np.argsort(dataset.train.labels, kind="stable")
  for (path, label), i in zip(samples, order, strict=True):
    assert label == labels[path.relative_to(tmp_path / "out").as_posix()]
    assert np.array_equal(pixels(path), expected[i])


@pytest.mark.parametrize("class_names", [("dog", "cat"), ("10", "9"), ("1", "b")])
def test_folders_are_never_renamed_to_force_an_order(tmp_path, class_names):
  dataset = make_dataset(class_names=class_names)
  release.export(dataset, make_poison(dataset), tmp_path / "out")
  for row, label in zip(read_index(tmp_path / "out"), dataset.train.labels, strict=True):
    assert int(row["label"]) == label
    assert row["path"].split("/")[1] == row["class"] == class_names[label]


def test_folders_and_files_keep_their_names(tmp_path):
  files = ("trip/day 1/b", "a", "trip/day 1/a", "ünï", "a.v2", "0")
  dataset = make_dataset(files=files, count=6)
  release.export(dataset, make_poison(dataset), tmp_path / "out")
  names = [dataset.class_names[label] for label in dataset.train.labels]
  assert [row["path"] for row in read_index(tmp_path / "out")] == [
    f"train/{name}/{file}.png" for name, file in zip(names, files, strict=True)
  ]


def test_unsafe_names_stay_inside_the_folder_and_distinct(tmp_path):
  class_names = ("..", "", "a/b", "a_b", "A_B", ".git", "x" * 300, "x" * 301, "nul\0", "\udcff\n")
  files = ("../../escape", "/abs", ".", "a//b", "same", "same", "Same", "new\nline", "c:d", "e.")
  dataset = make_dataset(class_names=class_names, files=files * 2, count=20)
  poison = make_poison(dataset)
  poison.save(tmp_path / "poison")
  release.export(dataset, poison, tmp_path / "out")
  with open(tmp_path / "out" / "index.csv", encoding="utf-8", errors="surrogateescape") as file:
    paths = [row["path"] for row in csv.DictReader(file)]
  assert len({path.casefold() for path in paths}) == 20
  assert len({path.split("/")[1].casefold() for path in paths}) == len(class_names)
  for path in paths:
    parts = path.split("/")
    assert parts[0] == "train"
    assert all(part and part[0] != "." and part.isprintable() for part in parts)
  assert sorted(os.listdir(tmp_path)) == ["out", "poison"]
  assert set(tree(tmp_path / "out")) == {*paths, "index.csv"}
  release.restore(tmp_path / "out", tmp_path / "poison", tmp_path / "clean")
  assert set(tree(tmp_path / "clean")) == set(tree(tmp_path / "out"))


def test_npz_export(tmp_path):
  dataset = make_dataset(class_names=("cat", "dog", "émeu"))
  poison = make_poison(dataset)
  release.export(dataset, poison, tmp_path / "out", ("npz",))
  assert os.listdir(tmp_path / "out") == ["poisoned.npz"]
  with np.load(tmp_path / "out" / "poisoned.npz", allow_pickle=False) as archive:
    assert sorted(archive.files) == ["class_names", "x_train", "y_train"]
    assert np.array_equal(archive["x_train"], poisoned_by_hand(dataset, poison))
    assert np.array_equal(archive["y_train"], dataset.train.labels)
    assert archive["class_names"].tolist() == ["cat", "dog", "émeu"]


def test_lazy_images_export_as_the_same_bytes(tmp_path):
  dataset = make_dataset()
  poison, images = make_poison(dataset), dataset.train.images
  lazy = LazyImages(images.__getitem__, len(images), "tiny", digests=images.digests)
  unread = Dataset("tiny", Split(lazy, dataset.train.labels), None, dataset.class_names)
  release.export(dataset, poison, tmp_path / "read", ("png", "npz"))
  release.export(unread, poison, tmp_path / "unread", ("png", "npz"))
  read, found = tree(tmp_path / "read"), tree(tmp_path / "unread")
  assert read == found
  assert "poisoned.npz" in read


@pytest.mark.parametrize("formats", [(), ("jpeg",), ("png", "tar")])
def test_unknown_formats(tmp_path, formats):
  dataset = make_dataset()
  with pytest.raises(UserError, match="use png or npz"):
    release.export(dataset, make_poison(dataset), tmp_path / "out", formats)


def test_export_with_the_poison_of_another_dataset(tmp_path):
  with pytest.raises(UserError, match="belongs to another dataset"):
    release.export(make_dataset(), make_poison(make_dataset(seed=5)), tmp_path / "out")
  assert os.listdir(tmp_path) == []


def test_existing_content_is_never_overwritten(exported):
  directory, poison_directory, dataset = exported
  before = tree(directory)
  with pytest.raises(UserError, match="is not empty"):
    release.export(dataset, Poison.load(poison_directory), directory)
  with pytest.raises(UserError, match="is not empty"):
    release.restore(directory, poison_directory, directory)
  with pytest.raises(UserError, match="a file: choose a new folder"):
    release.export(dataset, Poison.load(poison_directory), directory / "index.csv")
  assert tree(directory) == before


def test_an_empty_folder_is_used_and_has_the_usual_permissions(exported, tmp_path):
  directory, _, _ = exported
  dataset = make_dataset()
  (tmp_path / "empty").mkdir()
  release.export(dataset, make_poison(dataset), tmp_path / "empty")
  assert tree(tmp_path / "empty") == tree(directory)
  (tmp_path / "usual").mkdir()
  assert stat.S_IMODE((tmp_path / "empty").stat().st_mode) == stat.S_IMODE(
    (tmp_path / "usual").stat().st_mode
  )


@pytest.mark.parametrize(
  ("error", "expected", "match"),
  [
    (KeyboardInterrupt(), KeyboardInterrupt, None),
    (OSError(errno.ENOSPC, "No space"), UserError, "out: No space; free some"),
    (OSError(errno.EROFS, "Read-only"), UserError, "out: Read-only; choose a folder"),
  ],
)
@pytest.mark.parametrize("at", [0, 7])
def test_interrupted_export_leaves_nothing(tmp_path, monkeypatch, error, expected, match, at):
  dataset = make_dataset()
  poison = make_poison(dataset)
  write_bytes, written = pathlib.Path.write_bytes, []

  def write_or_fail(path, content):
    if len(written) >= at:
      raise error
    written.append(path)
    return write_bytes(path, content)

  monkeypatch.setattr(pathlib.Path, "write_bytes", write_or_fail)
  with pytest.raises(expected, match=match):
    release.export(dataset, poison, tmp_path / "out")
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("format_", "limit"), [("png", 100), ("png", 600), ("npz", 1000)])
def test_a_write_that_the_system_interrupts(tmp_path, format_, limit):
  # 100 bytes stop the first PNG; 600 bytes let every PNG through and stop the index.
  dataset = make_dataset()
  poison = make_poison(dataset)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
  try:
    with pytest.raises(UserError, match=r"Cannot write .*/out: File too large"):
      release.export(dataset, poison, tmp_path / "out", [format_])
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert os.listdir(tmp_path) == []


def test_folder_that_fills_up_while_the_export_is_written(tmp_path, monkeypatch):
  dataset = make_dataset()
  poison = make_poison(dataset)
  write_png = release._write_png

  def write_and_intrude(*arguments):
    write_png(*arguments)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "theirs").touch()

  monkeypatch.setattr(release, "_write_png", write_and_intrude)
  with pytest.raises(UserError, match="out: Directory not empty"):
    release.export(dataset, poison, tmp_path / "out")
  assert list(tree(tmp_path)) == ["out/theirs"]


@hypothesis.settings(deadline=None, max_examples=15)
@hypothesis.given(
  st.sampled_from([1, 3]), st.integers(2, 4), st.integers(4, 20), st.integers(0, 2**32 - 1)
)
def test_restore_gives_back_every_bit(tmp_path_factory, channels, classes, count, seed):
  folder = tmp_path_factory.mktemp("case")
  dataset = make_dataset(channels, [f"class {i}" for i in range(classes)], None, count, seed)
  # Labels must reach the last class for class names to be complete.
  dataset.train.labels[:classes] = np.arange(classes)
  poison = make_poison(dataset, seed)
  poison.save(folder / "poison")
  release.export(dataset, poison, folder / "out", ("png", "npz"))
  assert not release.restore(folder / "out", folder / "poison", folder / "clean")
  rows = read_index(folder / "clean")
  assert [row["path"] for row in rows] == [row["path"] for row in read_index(folder / "out")]
  for row, image, label in zip(rows, dataset.train.images, dataset.train.labels, strict=True):
    assert np.array_equal(pixels(folder / "clean" / row["path"]), image)
    assert int(row["label"]) == label
  with np.load(folder / "clean" / "clean.npz", allow_pickle=False) as archive:
    assert np.array_equal(archive["x_train"], dataset.train.images)
    assert np.array_equal(archive["y_train"], dataset.train.labels)
    assert archive["class_names"].tolist() == list(dataset.class_names)


def test_restore_without_an_export(exported, tmp_path):
  _, poison_directory, _ = exported
  with pytest.raises(UserError, match="no export"):
    release.restore(tmp_path / "nowhere", poison_directory, tmp_path / "clean")


def test_restore_without_a_poison(exported, tmp_path):
  directory, _, _ = exported
  with pytest.raises(UserError, match=r"no complete poison .*copy the key there"):
    release.restore(directory, tmp_path / "nowhere", tmp_path / "clean")


def assert_refused(exported, match):
  """Asserts that `restore` refuses the export and writes nothing."""
  directory, poison_directory, _ = exported
  before = sorted(os.listdir(directory.parent))
  with pytest.raises(UserError, match=match):
    release.restore(directory, poison_directory, directory.parent / "clean")
  assert sorted(os.listdir(directory.parent)) == before


@pytest.mark.parametrize("i", [0, 5, 11])
def test_a_change_of_one_pixel_by_one_level_is_refused(exported, i):
  path = read_index(exported[0])[i]["path"]
  altered = pixels(exported[0] / path).copy()
  altered[4, 3, 1] ^= 1
  Image.fromarray(altered).save(exported[0] / path)
  assert_refused(exported, f"{path} was altered after the export: put")


def test_a_pixel_and_the_index_altered_together(exported):
  rows = read_index(exported[0])
  path = exported[0] / rows[3]["path"]
  altered = pixels(path).copy()
  altered[4, 3, 1] = 128 + altered[4, 3, 1] % 2  # in the middle: restores within range
  Image.fromarray(altered).save(path)
  rows[3]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
  write_index(exported[0], rows)
  assert_refused(exported, "do not restore to 'tiny'")


def test_missing_and_truncated_files_are_named(exported):
  first, second = (read_index(exported[0])[i]["path"] for i in (2, 9))
  (exported[0] / second).unlink()
  assert_refused(exported, f"{second} is missing: put")
  content = (exported[0] / first).read_bytes()
  (exported[0] / first).write_bytes(content[:-20])
  assert_refused(exported, rf"{first} was altered after the export \(and 1 more\)")


def test_a_file_that_is_not_an_image_of_the_right_shape(exported):
  rows = read_index(exported[0])
  path = exported[0] / rows[3]["path"]

  def replace_content(content):
    path.write_bytes(content)
    rows[3]["sha256"] = hashlib.sha256(content).hexdigest()
    write_index(exported[0], rows)

  replace_content(b"not an image")
  assert_refused(exported, f"{rows[3]['path']} cannot be decoded")
  Image.new("RGB", (9, 7)).save(path)
  replace_content(path.read_bytes())
  assert_refused(exported, rf"{rows[3]['path']} is \[7, 9\] pixels instead of \[9, 7\]")


@pytest.mark.parametrize(
  "path",
  [
    "../poison/delta.npy",
    "../outside.png",
    "train/../../outside.png",
    "train/./x.png",
    "train//x.png",
    "/etc/passwd",
    "/tmp/x.png",
    "train\\..\\x.png",
    "C:/x.png",
    "index.csv",
    "train",
    "",
  ],
)
def test_index_that_leaves_the_tree(exported, path):
  rows = read_index(exported[0])
  Image.new("RGB", (7, 9)).save(exported[0].parent / "outside.png")
  rows[0]["path"] = path
  write_index(exported[0], rows)
  assert_refused(exported, "Row 2 .* not a PNG below train/")


def test_link_that_leaves_the_tree(exported):
  path = read_index(exported[0])[0]["path"]
  (exported[0] / path).rename(exported[0].parent / "outside.png")
  (exported[0] / path).symlink_to(exported[0].parent / "outside.png")
  assert_refused(exported, "link that leaves")
  (exported[0] / path).unlink()
  (exported[0] / path).symlink_to(path.rsplit("/", 1)[1])  # to itself
  assert_refused(exported, f"{path}: .* leads to itself")


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("label", "-1"),
    ("label", "1.0"),
    ("label", "٣"),
    ("label", "12"),
    ("label", "9" * 5000),
    ("sha256", ""),
    ("sha256", "g" * 64),
  ],
)
def test_index_with_impossible_values(exported, key, value):
  rows = read_index(exported[0])
  rows[4][key] = value
  write_index(exported[0], rows)
  assert_refused(exported, r"Row 6 .*index\.csv is damaged")


def test_index_with_other_rows(exported):
  rows = read_index(exported[0])
  write_index(exported[0], rows[:-1])
  assert_refused(exported, "12 rows.* and 11 rows")
  write_index(exported[0], [*rows[:-1], rows[0]])
  assert_refused(exported, "lists a file twice")
  write_index(exported[0], rows[::-1])
  assert_refused(exported, "do not restore to 'tiny'|not the images")
  rows[0]["label"] = str(1 - int(rows[0]["label"]))
  write_index(exported[0], rows)
  assert_refused(exported, "do not restore to 'tiny'")


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b'"', b"path,label\n", b"\xff\xfe\xfd"])
def test_a_damaged_index_is_refused(exported, content):
  (exported[0] / "index.csv").write_bytes(content)
  assert_refused(exported, r"index\.csv")


def test_poison_of_another_dataset(exported):
  _, poison_directory, dataset = exported
  for other in (make_poison(make_dataset(seed=5)), make_poison(dataset, seed=9)):
    shutil.rmtree(poison_directory)
    other.save(poison_directory)
    assert_refused(exported, "do not restore to 'tiny'|not the images")


def test_manifest_with_another_fingerprint(exported):
  path = exported[1] / "manifest.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "0" * 64}))
  assert_refused(exported, "do not restore to 'tiny'")


def test_an_untrusted_npz_is_refused(exported):
  directory, _, _ = exported
  shutil.rmtree(directory)
  directory.mkdir()
  source, target = directory.parent / "poisoned.npz", directory / "poisoned.npz"
  content = source.read_bytes()
  target.write_bytes(content[: len(content) // 2])
  assert_refused(exported, r"poisoned\.npz")
  with np.load(source) as archive:
    arrays = dict(archive)
  np.savez(target, **(arrays | {"y_train": arrays["y_train"][::-1]}))
  assert_refused(exported, r"poisoned\.npz do not restore to 'tiny'")
  np.savez(target, **(arrays | {"x_train": arrays["x_train"][:, :-1]}))
  assert_refused(exported, "use the images it was made for")
  with zipfile.ZipFile(target, "w") as archive, archive.open("x_train.npy", "w") as member:
    header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 60, 9, 7, 3)}
    np.lib.format.write_array_header_1_0(member, header)
  assert_refused(exported, r"poisoned\.npz")
