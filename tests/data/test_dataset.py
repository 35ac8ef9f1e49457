import dataclasses
import hashlib

import numpy as np
import pytest

from miue_jax.data import dataset
from miue_jax.data.images import LazyImages
from miue_jax.settings.errors import UserError

IMAGES = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3, 1)


def tiny(**changes):
  images = IMAGES
  labels = np.array([0, 1, 0, 1], np.int32)
  fields = {
    "name": "tiny",
    "train": dataset.Split(images, labels),
    "test": dataset.Split(images[:2], labels[:2]),
    "class_names": ("a", "b"),
  }
  return dataset.Dataset(**(fields | changes))


def with_train(**changes):
  return tiny(train=dataclasses.replace(tiny().train, **changes))


@pytest.mark.parametrize("lazy", [False, True])
def test_take_keeps_images_labels_and_files_together(lazy):
  held = LazyImages(lambda ids: IMAGES[ids], len(IMAGES), "tiny") if lazy else IMAGES
  split = dataset.Split(held, np.array([3, 1, 2, 0], np.int32), ("p", "q", "r", "s"))
  taken = split.take(np.array([2, 0]))
  np.testing.assert_array_equal(taken.images[:], IMAGES[[2, 0]])
  assert taken.labels.tolist() == [2, 3]
  assert taken.files == ("r", "p")
  assert tiny().train.take(np.array([1])).files is None


def test_take_composes_and_reads_only_what_is_taken():
  asked = []

  def read(ids):
    asked.extend(ids.tolist())
    return IMAGES[ids]

  lazy = LazyImages(read, 4, "tiny", image_shape=IMAGES.shape[1:])
  split = dataset.Split(lazy, np.array([3, 1, 2, 0]), ("d", "b", "c", "a"))
  taken = split.take(np.array([2, 0, 3])).take(np.array([2, 1]))
  assert taken.labels.tolist() == [0, 3]
  assert taken.files == ("a", "d")
  assert taken.images.shape == (2, *IMAGES.shape[1:])
  assert asked == []
  np.testing.assert_array_equal(taken.images[np.array([1, 0])], IMAGES[[0, 3]])
  assert asked == [0, 3]


def test_fingerprint_is_sha256_of_shape_digests_and_little_endian_labels():
  digests = [hashlib.sha256(bytes(range(start, start + 6))).digest() for start in (0, 6, 12, 18)]
  text = b"(4, 2, 3, 1)" + b"".join(digests) + bytes([0, 0, 0, 0, 1, 0, 0, 0] * 2)
  assert tiny().fingerprint == hashlib.sha256(text).hexdigest()


def test_fingerprint_ignores_memory_layout_and_label_type():
  images = np.asfortranarray(IMAGES)
  labels = tiny().train.labels.astype(">i8")
  assert with_train(images=images, labels=labels).fingerprint == tiny().fingerprint


def test_fingerprint_sees_every_pixel_label_and_shape():
  one_pixel = IMAGES.copy()
  one_pixel[3, 1, 2, 0] ^= 1
  others = [
    with_train(images=one_pixel),
    with_train(labels=np.array([0, 1, 1, 0], np.int32)),
    with_train(images=IMAGES.reshape(4, 3, 2, 1)),
  ]
  assert len({d.fingerprint for d in [*others, tiny()]}) == 4


def test_fingerprint_depends_only_on_training_images():
  other = tiny(test=None, name="other", class_names=("x", "y"))
  assert other.fingerprint == tiny().fingerprint


def test_checked_returns_a_sound_dataset_itself():
  sound = tiny()
  assert dataset.checked(sound) is sound
  assert dataset.checked(tiny(test=None)).test is None


EMPTY = dataset.Split(np.empty((0, 2, 3, 1), np.uint8), np.empty(0, np.int32))


@pytest.mark.parametrize(
  ("broken", "message"),
  [
    (with_train(images=IMAGES.astype(np.float32)), "float32: convert them to uint8"),
    (with_train(images=IMAGES[..., 0]), r"shape \(4, 2, 3\)"),
    (with_train(images=np.zeros((4, 2, 3, 4), np.uint8)), r"shape \(4, 2, 3, 4\)"),
    (with_train(labels=np.array([0, 1, 0], np.int32)), "expected 4 integers"),
    (with_train(labels=np.array([0.0, 1, 0, 1])), "float64; expected 4 integers"),
    (with_train(labels=np.array([0, 1, 0, 2])), "labels from 0 to 2"),
    (with_train(labels=np.array([0, -1, 0, 1])), "labels from -1 to 1"),
    (with_train(labels=np.array([0, 0, 0, 1])), r"Class 'b' of tiny has 1 training image"),
    (tiny(class_names=("a", "b", "c")), r"Class 'c' of tiny has 0 training image"),
    (tiny(class_names=("a", "b", "c")), r"labels are 0, 1, 2, \.\.\. without gaps"),
    (tiny(train=EMPTY), "training images of tiny are missing"),
    (tiny(test=EMPTY), "test images of tiny are missing"),
    (
      tiny(test=dataset.Split(np.zeros((2, 3, 3, 1), np.uint8), np.array([0, 1]))),
      r"Test images of tiny are \(3, 3, 1\), training images \(2, 3, 1\)",
    ),
    (
      dataclasses.replace(with_train(labels=np.zeros(4, int)), class_names=("a",), test=None),
      "tiny has one class",
    ),
  ],
)
def test_checked_names_what_is_wrong(broken, message):
  with pytest.raises(UserError, match=message):
    dataset.checked(broken)
