"""Sizes of datasets: known ones, and those that reading finds."""

import dataclasses

import pytest

from miue_jax.plan import sizes
from miue_jax.settings.config import Data
from miue_jax.settings.errors import UserError


def test_known_sizes_need_no_data():
  cifar = Data(source="tfds", name="cifar10")
  assert sizes.known(cifar) == sizes.Sizes((32, 32, 3), 50_000, 10_000, 10)
  resized = dataclasses.replace(cifar, size=48, max_train=5000)
  assert sizes.known(resized) == sizes.Sizes((48, 48, 3), 5000, 10_000, 10)
  assert sizes.known(dataclasses.replace(cifar, train_split="train[:1%]")) is None
  assert sizes.known(dataclasses.replace(cifar, classes=("cat", "dog"))) is None
  assert sizes.known(Data(source="folder", path="somewhere")) is None


@pytest.mark.parametrize("data", [Data(), Data(size=8, max_train=900, test_fraction=0.1)])
def test_known_sizes_are_those_that_reading_finds(data):
  assert sizes.known(data) == sizes.read(data)


@pytest.mark.parametrize("channels", ["2", "4"])
def test_images_of_other_channels_have_no_plan_as_they_have_no_run(channels):
  assert sizes.image_shape(["32", "16", "1"]) == (32, 16, 1)
  with pytest.raises(UserError, match=f"--image_shape is 32,32,{channels}; images have 1 or 3"):
    sizes.image_shape(["32", "32", channels])
