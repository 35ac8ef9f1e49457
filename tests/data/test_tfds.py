"""Datasets that tfds prepares on the disk, without TensorFlow and without a network.

tfds needs TensorFlow to encode arrays as images, but not to store images that are encoded already.
"""

import importlib.resources.abc
import io
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from miue_jax.data import sources
from miue_jax.settings import config
from miue_jax.settings.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")

DIGITS = datasets.load_digits()
PIXELS = (DIGITS.images * 15).astype(np.uint8)


def png(index, channels=1):
  file = io.BytesIO()
  Image.fromarray(np.repeat(PIXELS[index, :, :, None], channels, 2).squeeze()).save(file, "PNG")
  return file.getvalue()


def builder_info(builder, **features):
  return tfds.core.DatasetInfo(builder=builder, features=tfds.features.FeaturesDict(features))


class SmallDigits(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    return builder_info(
      self,
      picture=tfds.features.Image(shape=(8, 8, 1)),
      digit=tfds.features.ClassLabel(names=[f"digit {k}" for k in range(10)]),
      note=tfds.features.Text(),
    )

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples(0, 200), "test": self._generate_examples(200, 260)}

  def _generate_examples(self, start, stop):
    for index in range(start, stop):
      yield index, {"picture": png(index), "digit": int(DIGITS.target[index]), "note": "x"}


class UnlabelledDigits(SmallDigits):
  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples(0, 200), "hidden": self._unlabelled()}

  def _unlabelled(self):
    for key, example in self._generate_examples(200, 260):
      yield key, example | {"digit": -1}


class TextOnly(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    return builder_info(self, note=tfds.features.Text())

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    yield 0, {"note": "x"}


class OutOfReach(SmallDigits):
  def _split_generators(self, dl_manager):
    raise ConnectionError("no route to host\nand much more")


@pytest.fixture(scope="module", autouse=True)
def importlib_resources():
  """Replaces the backport of `importlib.resources`, which tfds uses but does not declare."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(sys.modules, "importlib_resources", importlib.resources)
    yield


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tfds")
  for builder in (SmallDigits, UnlabelledDigits, TextOnly):
    builder(data_dir=folder, file_format="array_record").download_and_prepare()
  return str(folder)


def load(name, path, need_test=True, **settings):
  data = config.Data(source="tfds", name=name, path=path, **settings)
  return sources.load(data, need_test=need_test)


def as_set(images, labels):
  return {(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}


def test_pixels_and_labels_survive_without_tensorflow(data_dir, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow", None)  # importing it raises ImportError
  loaded = load("small_digits", data_dir)
  for split, part in ((loaded.train, slice(0, 200)), (loaded.test, slice(200, 260))):
    assert split.images.shape[1:] == (8, 8, 1)
    assert as_set(split.images, split.labels) == as_set(PIXELS[part], DIGITS.target[part])
  assert loaded.class_names == tuple(f"digit {k}" for k in range(10))
  assert loaded.name == "small_digits"


def test_two_reads_agree(data_dir):
  first, second = (load("small_digits", data_dir).fingerprint for _ in range(2))
  assert first == second


def test_lazy_images_equal_images_in_memory(data_dir):
  held, lazy = (load("small_digits", data_dir, memory=memory) for memory in (4, 0))
  assert not lazy.train.images.in_memory
  for one, other in ((held.train, lazy.train), (held.test, lazy.test)):
    np.testing.assert_array_equal(one.images, other.images[:])
    np.testing.assert_array_equal(one.labels, other.labels)
  assert held.fingerprint == lazy.fingerprint


def test_subset_size_and_classes(data_dir):
  loaded = load("small_digits", data_dir, size=4, max_train=10, classes=("digit 3", "digit 1"))
  assert loaded.train.images.shape == (10, 4, 4, 1)
  assert loaded.class_names == ("digit 3", "digit 1")


def test_splits_may_be_parts_of_splits(data_dir):
  loaded = load("small_digits", data_dir, train_split="train[:150]", test_split="train[150:]")
  assert (len(loaded.train), len(loaded.test)) == (150, 50)


def test_without_a_test_split_one_is_held_out(data_dir):
  loaded = load("unlabelled_digits", data_dir, test_fraction=0.25)
  assert (len(loaded.train), len(loaded.test)) == (150, 50)
  with pytest.raises(UserError, match="has no test set"):
    load("unlabelled_digits", data_dir, test_fraction=0)


@pytest.mark.parametrize(
  ("name", "settings", "message"),
  [
    ("", {}, "data.name is empty"),
    ("nonesuch", {}, "nonesuch is neither a dataset that tensorflow-datasets knows nor"),
    ("small_digits", {"train_split": "trian"}, "'trian' .*has the splits train, test"),
    ("small_digits", {"test_split": "validation"}, "'validation' .*has the splits train, test"),
    ("unlabelled_digits", {"test_split": "hidden"}, "'hidden' .* examples without a label"),
    ("text_only", {}, "has the features note, not an image and a class label"),
    ("out_of_reach", {}, r"no route to host\): run pip install 'miue-jax\[prepare\]'"),
  ],
)
def test_every_mistake_is_named(data_dir, name, settings, message):
  with pytest.raises(UserError, match=message) as error:
    load(name, data_dir, **settings)
  assert "\n" not in str(error.value)


def test_another_file_format_is_refused(tmp_path):
  prepared = SmallDigits(data_dir=tmp_path, file_format="array_record")
  prepared.download_and_prepare()
  info = tmp_path / "small_digits" / "1.0.0" / "dataset_info.json"
  info.write_text(info.read_text().replace("array_record", "tfrecord"))
  with pytest.raises(UserError, match=r"cannot be opened .*TFRECORD.* in the array_record format"):
    load("small_digits", str(tmp_path))


def test_a_dataset_is_prepared_if_possible(tmp_path):
  assert len(load("small_digits", str(tmp_path)).train) == 200
  assert (tmp_path / "small_digits").is_dir()


@pytest.mark.parametrize(
  ("name", "num_classes"), [("cifar10", 10), ("cifar100", 100), ("svhn_cropped", 10)]
)
def test_well_known_datasets(name, num_classes, tmp_path, monkeypatch):
  """Prepares datasets with the published features and splits, but with digits as images."""

  def examples(builder, start, stop):
    for index in range(start, stop):
      example = {"image": png(index, 3), "label": index % num_classes}
      others = {"id": str(index), "coarse_label": 0}
      yield index, {key: (example | others)[key] for key in builder.info.features}

  monkeypatch.setattr(
    tfds.builder_cls(name),
    "_split_generators",
    lambda self, dl_manager: {"train": examples(self, 0, 300), "test": examples(self, 300, 400)},
  )
  loaded = load(name, str(tmp_path), size=32)
  assert loaded.train.images.shape == (300, 32, 32, 3)
  assert loaded.test.images.shape == (100, 32, 32, 3)
  assert loaded.num_classes == num_classes
  counts = np.bincount(loaded.train.labels, minlength=num_classes)
  assert counts.tolist() == [300 // num_classes] * num_classes
