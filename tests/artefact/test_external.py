"""External poisons: read from every form, checked, never unpickled."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from miue_jax.artefact import external, release
from miue_jax.artefact.poison import Poison
from miue_jax.data.dataset import Dataset, Split
from miue_jax.settings.errors import UserError

SHAPE = (12, 8, 8, 3)


@pytest.fixture
def dataset():
  rng = np.random.default_rng(0)
  train = Split(rng.integers(0, 256, SHAPE, np.uint8), np.arange(12, dtype=np.int32) % 3)
  return Dataset("squares", train, None, ("a", "b", "c"))


def moved(dataset, reach):
  """Returns images of which one value differs by `reach` and the others by less."""
  clean = dataset.train.images[:].astype(int)
  images = np.clip(clean + np.random.default_rng(1).integers(-reach, reach + 1, SHAPE), 0, 255)
  images[0, 0, 0, 0] = clean[0, 0, 0, 0] + (reach if clean[0, 0, 0, 0] < 128 else -reach)
  return images.astype(np.uint8)


def save(folder, dataset, images, form):
  path = folder / f"images.{form}"
  labels = dataset.train.labels
  if form == "npy":
    np.save(path, images)
  elif form == "npz":
    np.savez(path, x_train=images, y_train=labels)
  elif form == "medmnist.npz":
    np.savez(path, train_images=images, train_labels=labels[:, None], test_images=images[:2])
  elif form == "lone.npz":
    np.savez(path, whatever=images)
  else:
    delta = images.astype(np.int16) - dataset.train.images[:]
    poison = Poison.make(
      dataset, delta, method="x", epsilon=1.0, norm="none", config={}, seed=0, seconds=0.0
    )
    release.export(dataset, poison, path, [form])
  return path


@pytest.mark.parametrize("reach", [0, 8, 9, 127, 128])
@pytest.mark.parametrize("form", ["npy", "npz", "medmnist.npz", "lone.npz", "png"])
def test_the_poison_gives_the_external_images_back(dataset, tmp_path, reach, form):
  images = moved(dataset, reach)
  path = save(tmp_path, dataset, images, form)
  poison = external.make("mine", path, dataset, 8 / 255, seed=3)
  poison.save(tmp_path / "poison")
  kept = Poison.load(tmp_path / "poison", dataset)
  assert np.array_equal(kept.apply(dataset.train.images), images)
  assert kept.manifest["method"] == "mine"
  assert kept.manifest["max_delta_255ths"] == reach
  assert ("not kept" in kept.manifest.get("budget", "")) == (reach > 8)


def test_an_export_as_npz_is_a_folder_too(dataset, tmp_path):
  images = moved(dataset, 4)
  path = save(tmp_path, dataset, images, "npz")
  (tmp_path / "export").mkdir()
  path.rename(tmp_path / "export" / "poisoned.npz")
  assert np.array_equal(external.load(tmp_path / "export", dataset), images)


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda images: images[:-1], r"\[11, 8, 8, 3\].*\[12, 8, 8, 3\]"),
    (lambda images: images[:, :4], r"\[12, 4, 8, 3\]"),
    (lambda images: images[..., 0], r"\[12, 8, 8\]"),
    (lambda images: images / 255, "float64.*uint8"),
    (lambda images: images.astype(np.int32), "int32.*uint8"),
  ],
)
def test_images_of_another_shape_or_type_are_refused(dataset, tmp_path, change, words):
  np.save(tmp_path / "x.npy", change(dataset.train.images[:]))
  with pytest.raises(UserError, match=words):
    external.load(tmp_path / "x.npy", dataset)


def test_labels_in_another_order_are_refused(dataset, tmp_path):
  labels = dataset.train.labels[::-1]
  np.savez(tmp_path / "x.npz", x_train=dataset.train.images, y_train=labels)
  with pytest.raises(UserError, match=r"Labels of .* are not those of squares"):
    external.load(tmp_path / "x.npz", dataset)


def test_several_unknown_arrays_are_listed(dataset, tmp_path):
  np.savez(tmp_path / "x.npz", a=dataset.train.images, b=dataset.train.images)
  with pytest.raises(UserError, match="holds a, b: name"):
    external.load(tmp_path / "x.npz", dataset)


def write_pngs(folder, images, names):
  for image, name in zip(images, names, strict=True):
    path = folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.mark.parametrize(
  "name",
  [
    "{i:02d}",
    "image{i}",
    "{i}_poisoned",
    "{label}/{i:02d}",
    "train/{label}/{i:02d}",
    "anything/{turned}/{i}",
  ],
)
def test_a_folder_of_pngs_is_ordered_by_numbers_or_as_an_export(dataset, tmp_path, name):
  images = moved(dataset, 4)
  names = [name.format(i=i, label="abc"[i % 3], turned=-i) for i in range(12)]
  write_pngs(tmp_path, images, names)
  np.testing.assert_array_equal(external.load(tmp_path, dataset), images)


def test_pngs_of_a_dataset_with_files_are_found_by_their_names(dataset, tmp_path):
  names = [f"{'zyx'[i % 3]}{i}" for i in range(12)]
  train = dataclasses.replace(dataset.train, files=names)
  images = moved(dataset, 4)
  write_pngs(tmp_path, images, [f"{'abc'[i % 3]}/{name}" for i, name in enumerate(names)])
  found = external.load(tmp_path, dataclasses.replace(dataset, train=train))
  np.testing.assert_array_equal(found, images)


@pytest.mark.parametrize(
  ("names", "words"),
  [
    ([], "holds no PNG"),
    ([f"{i}" for i in range(11)], r"\[11, 8, 8, 3\].*\[12, 8, 8, 3\]"),
    ([f"{i // 6}/{i % 6}" for i in range(12)], "the same place in the order"),
    (["1", *(f"{i}" for i in range(2, 12)), "01"], "the same place in the order"),
    ([f"{'abc'[(i + 1) % 3]}/{i}" for i in range(12)], "Labels of .* are not those of squares"),
  ],
)
def test_an_unusable_folder_of_pngs_is_refused(dataset, tmp_path, names, words):
  write_pngs(tmp_path, dataset.train.images[: len(names)], names)
  with pytest.raises(UserError, match=words):
    external.load(tmp_path, dataset)


def test_an_altered_export_is_refused(dataset, tmp_path):
  path = save(tmp_path, dataset, moved(dataset, 4), "png")
  other, victim = sorted(path.rglob("*.png"))[:2]
  victim.write_bytes(other.read_bytes())
  with pytest.raises(UserError, match="was altered"):
    external.load(path, dataset)


def test_a_name_must_be_unique(tmp_path):
  with pytest.raises(UserError, match="'x' twice"):
    external.parse((f"x={tmp_path}", f"x={tmp_path}"))
  assert list(external.parse((f"x={tmp_path}", f"y={tmp_path}"))) == ["x", "y"]
