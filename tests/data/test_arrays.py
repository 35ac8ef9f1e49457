"""Tests that arrays as people have them are accepted, or refused with the way to convert them."""

import jax
import numpy as np
import pytest

from miue_jax.data import arrays
from miue_jax.settings.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 5, 4, 3)).astype(np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("value", [IMAGES, IMAGES[..., 0], IMAGES[..., :1], IMAGES.tolist()])
def test_images_become_four_dimensional(value):
  value = np.asarray(value, np.uint8)
  found = arrays.images(value, "Images")
  np.testing.assert_array_equal(found.reshape(value.shape), value)
  assert found.ndim == 4


def test_arrays_of_jax_are_accepted():
  np.testing.assert_array_equal(arrays.images(jax.numpy.asarray(IMAGES), "Images"), IMAGES)
  np.testing.assert_array_equal(arrays.labels(jax.numpy.asarray(LABELS), 6, "Labels"), LABELS)


@pytest.mark.parametrize(
  "value",
  [
    IMAGES / 255,
    IMAGES.astype(np.float32) / 255,
    IMAGES.astype(float),
    IMAGES.astype(int),
    IMAGES.transpose(0, 3, 1, 2),
    IMAGES.transpose(0, 3, 1, 2) / 255,
  ],
)
def test_the_advice_about_images_gives_the_images(value):
  with pytest.raises(UserError, match="must be uint8") as error:
    arrays.images(value, "Images")
  _, steps = str(error.value).removesuffix(".").split(": convert with ")
  converted = eval(steps, {"numpy": np, "images": value})
  np.testing.assert_array_equal(arrays.images(converted, "Images"), IMAGES)


@pytest.mark.parametrize("value", [np.zeros((2, 4, 4), np.uint16), IMAGES.astype(int) // 255])
def test_no_advice_about_images_that_may_be_on_another_scale(value):
  with pytest.raises(UserError, match=r"no value above 1: scale them to 0\.\.255\."):
    arrays.images(value, "Images")


@pytest.mark.parametrize(
  "value",
  [np.eye(3)[LABELS], np.array(list("abc"))[LABELS], LABELS * 1.0, np.eye(3, dtype=int)[LABELS]],
)
def test_the_advice_about_labels_gives_the_labels(value):
  with pytest.raises(UserError, match="must be 6 integers") as error:
    arrays.labels(value, 6, "Labels")
  steps = str(error.value).removesuffix(".").split(" with ")[1]
  converted = eval(steps, {"numpy": np, "labels": value})
  np.testing.assert_array_equal(arrays.labels(converted, 6, "Labels"), LABELS)


@pytest.mark.parametrize(
  ("value", "words"),
  [
    (IMAGES * 2.0, r"values from 0 to 510: scale them to 0\.\.255"),
    (IMAGES - 300.0, "values from -300 to"),
    (IMAGES * np.nan, "values from nan to nan: replace those that are not numbers"),
    (IMAGES[:0], r"not empty; here: uint8 of shape \[0, 5, 4, 3\]\.$"),
    (IMAGES[0, 0], r"shape \[4, 3\]\.$"),
    (np.repeat(IMAGES, 2, axis=3), r"shape \[6, 5, 4, 6\]\.$"),
    (IMAGES == 3, r"bool of shape \[6, 5, 4, 3\]\.$"),
    (IMAGES.astype(str), r"<U3 of shape"),
  ],
)
def test_other_images_are_refused(value, words):
  with pytest.raises(UserError, match=words):
    arrays.images(value, "Images")


@pytest.mark.parametrize(
  ("value", "words"),
  [
    (LABELS[:5], r"must be 6 integers, .* shape \[5\]\.$"),
    (LABELS + 0.5, r"here: float64 of shape \[6\]\.$"),
    (LABELS - 1, "here: -1 to 1: number the classes 0, 1, 2"),
    (LABELS + 2**31, "number the classes"),
    (LABELS[:, None, None], r"shape \[6, 1, 1\]\.$"),
  ],
)
def test_other_labels_are_refused(value, words):
  with pytest.raises(UserError, match=words):
    arrays.labels(value, 6, "Labels")


def test_an_array_that_cannot_be_converted_is_refused_with_its_reason():
  class Tensor:
    def __array__(self, dtype=None, copy=None):
      raise RuntimeError("Can't call numpy() on Tensor that requires grad.")

  with pytest.raises(UserError, match=r"\(Can't call numpy\(\) on Tensor that requires grad"):
    arrays.images(Tensor(), "Images")
