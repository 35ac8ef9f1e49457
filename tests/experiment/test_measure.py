"""What `measure` looks at."""

import numpy as np
import pytest

from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.images import LazyImages
from miue_jax.experiment import measure
from miue_jax.settings.errors import UserError

RNG = np.random.default_rng(0)


def split(labels):
  images = RNG.integers(0, 256, (len(labels), 4, 4, 3), np.uint8)
  return Split(images, np.asarray(labels, np.int32))


DATASET = Dataset("some", split([0, 0, 1, 1, 1]), split([1, 0, 1, 0, 0, 1]), ("a", "b"))


def lazy(images):
  return LazyImages(lambda ids: images[ids], len(images), "some")


def test_test_images_borrow_a_change_of_their_class():
  train, test = DATASET.train, DATASET.test
  changes = 3 * np.arange(5)[:, None, None, None]  # says which image it is of
  released = Split(np.minimum(train.images[:] + changes, 255).astype(np.uint8), train.labels)
  found = measure.lent(DATASET, released, seed=0)
  assert found.labels is test.labels
  lenders = []
  for image, clean, label in zip(found.images, test.images, test.labels, strict=True):
    candidates = [
      i
      for i in np.flatnonzero(train.labels == label)
      if np.array_equal(
        image,
        np.clip(clean + released.images[i].astype(int) - train.images[i], 0, 255),
      )
    ]
    assert len(candidates) == 1
    lenders += candidates
  assert len(set(lenders)) > 2  # not always the first one
  np.testing.assert_array_equal(found.images, measure.lent(DATASET, released, seed=0).images)
  assert (found.images[:] != measure.lent(DATASET, released, seed=1).images).any()


def test_unchanged_training_images_lend_nothing():
  found = measure.lent(DATASET, DATASET.train, seed=0)
  np.testing.assert_array_equal(found.images, DATASET.test.images)


def test_images_that_are_read_stay_so():
  train = DATASET.train
  released = Split(np.minimum(train.images, 200), train.labels)
  whole = measure.lent(DATASET, released, seed=0).images
  parts = Split(lazy(DATASET.test.images), DATASET.test.labels)
  read = measure.lent(Dataset("some", train, parts, ("a", "b")), released, seed=0).images
  assert not read.in_memory
  np.testing.assert_array_equal(read[2:5], whole[2:5])
  np.testing.assert_array_equal(read[np.array([5, 0])], whole[[5, 0]])


def test_a_class_without_lenders_is_named():
  alone = Dataset("some", split([0, 0, 0]), DATASET.test, ("a", "b"))
  with pytest.raises(UserError, match="Class 'b' has test images alone"):
    measure.lent(alone, alone.train, seed=0)
