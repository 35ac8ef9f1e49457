"""Exports are restored by their pixels: renamed, moved, saved again, in part."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from miue_jax.artefact import release
from miue_jax.artefact.poison import Poison
from miue_jax.data.dataset import Dataset, Split
from miue_jax.settings.errors import UserError


def make(channels=3, seed=0):
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (12, 9, 7, channels), dtype=np.uint8)
  labels = np.arange(12, dtype=np.int32) % 2
  dataset = Dataset("tiny", Split(images, labels, None), None, ("cat", "dog"))
  delta = np.clip(images + rng.integers(-8, 9, images.shape), 0, 255) - images.astype(int)
  settings = {"method": "miue", "epsilon": 8 / 255, "config": {}, "seed": 0, "seconds": 1.0}
  return dataset, Poison.make(dataset, delta.astype(np.int8), **settings)


@pytest.fixture(params=[1, 3])
def exported(tmp_path, request):
  dataset, poison = make(request.param)
  poison.save(tmp_path / "poison")
  release.export(dataset, poison, tmp_path / "out", key=tmp_path / "poison")
  return dataset, release.paths(dataset)


def restored(tmp_path, refused=0):
  clean = tmp_path / "clean"
  assert release.restore(tmp_path / "out", tmp_path / "poison", clean) == refused
  return clean


def assert_clean(folder, dataset, paths, indices):
  found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
  assert found == sorted(paths[index] for index in indices)
  for index in indices:
    image = np.asarray(Image.open(folder / paths[index])).reshape(9, 7, -1)
    np.testing.assert_array_equal(image, dataset.train.images[index])
  text = (folder / "index.csv").read_text().splitlines()
  assert [line.split(",")[0] for line in text[1:]] == [paths[index] for index in indices]


def test_a_whole_export(tmp_path, exported):
  dataset, paths = exported
  assert_clean(restored(tmp_path), dataset, paths, range(12))


def test_renamed_moved_saved_again_without_an_index(tmp_path, exported):
  dataset, paths = exported
  out = tmp_path / "out"
  (out / "index.csv").unlink()
  (out / paths[0]).rename(out / "elsewhere.png")
  with Image.open(out / paths[1]) as image:
    image.save(out / "again.webp", lossless=True)
  (out / paths[1]).unlink()
  # A picture next to a folder of the same name.
  (out / "x.png").mkdir()
  (out / paths[2]).rename(out / "x.png" / "y.png")
  assert_clean(restored(tmp_path), dataset, paths, range(12))


def test_what_cannot_be_restored_is_named_and_the_rest_is(tmp_path, exported, caplog):
  dataset, paths = exported
  out = tmp_path / "out"
  (out / paths[3]).unlink()
  altered = np.asarray(Image.open(out / paths[4])).copy()
  altered.flat[5] ^= 1
  Image.fromarray(altered).save(out / paths[4])
  (out / paths[5]).write_bytes(b"x")
  Image.new("L", (20, 30)).save(out / "other.png")
  clean = restored(tmp_path, refused=3)
  assert_clean(clean, dataset, paths, [0, 1, 2, *range(6, 12)])
  for line in (
    "3 files cannot be restored",
    f"{paths[4]}: altered, or not made with this poison",
    f"{paths[5]}: cannot be decoded",
    "other.png: 20 x 30 pixels instead of 7 x 9",
    "3 files were not found",
    paths[3],
  ):
    assert line in caplog.text


def test_one_class_only(tmp_path, exported):
  dataset, paths = exported
  shutil.rmtree(tmp_path / "out/train/dog")
  assert_clean(restored(tmp_path), dataset, paths, range(0, 12, 2))


def test_classes_and_names_come_from_the_key(tmp_path, exported):
  dataset, paths = exported
  train = tmp_path / "out/train"
  for old, new in (("cat", "swap"), ("dog", "cat"), ("swap", "dog")):
    (train / old).rename(train / new)
  index = (tmp_path / "out/index.csv").read_text()
  swapped = index.replace("cat", "swap").replace("dog", "cat").replace("swap", "dog")
  (tmp_path / "out/index.csv").write_text(swapped)
  clean = restored(tmp_path)
  assert_clean(clean, dataset, paths, range(12))
  assert (clean / "index.csv").read_text().splitlines()[1].split(",")[1:3] == ["0", "cat"]


def test_the_poison_of_another_export_restores_nothing(tmp_path, exported):
  dataset, _ = exported
  other, poison = make(dataset.train.images.shape[-1], seed=9)
  shutil.rmtree(tmp_path / "poison")
  poison.save(tmp_path / "poison")
  release.export(other, poison, tmp_path / "unused", key=tmp_path / "poison")
  with pytest.raises(UserError, match="was made with this poison"):
    restored(tmp_path)
  assert not (tmp_path / "clean").exists()


@pytest.mark.parametrize(
  "change",
  [
    {"paths": np.array(["train/../../x.png"] * 12)},
    {"paths": np.array(["train/.ssh/x.png"] * 12)},
    {"paths": np.array(["train/x.png"] * 12)},
    {"labels": np.full(12, 7, np.int32)},
    {"digests": np.zeros((3, 32), np.uint8)},
    {"class_names": np.array([1, 2])},
  ],
)
def test_a_hostile_file_of_digests_is_refused(tmp_path, exported, change):
  path = tmp_path / "poison/published.npz"
  with np.load(path, allow_pickle=False) as archive:
    arrays = dict(archive)
  np.savez(path, **(arrays | change))
  with pytest.raises(UserError, match=r"published.npz in the folder of the poison is damaged"):
    restored(tmp_path)
  assert "clean" not in os.listdir(tmp_path)


def test_digests_of_another_poison_are_not_used(tmp_path, exported):
  path = tmp_path / "poison/published.npz"
  with np.load(path, allow_pickle=False) as archive:
    arrays = dict(archive)
  np.savez(path, **(arrays | {"delta_sha256": np.array("0")}))
  dataset, paths = exported
  assert_clean(restored(tmp_path), dataset, paths, range(12))  # by the index
  (tmp_path / "out" / paths[0]).unlink()
  shutil.rmtree(tmp_path / "clean")
  with pytest.raises(UserError, match="is missing: put the exported file back"):
    restored(tmp_path)


def test_the_digests_are_private(tmp_path, exported):
  assert (tmp_path / "poison/published.npz").stat().st_mode & 0o777 == 0o600
