"""Tests the perturbation: which images it changes, where it starts, its layout on devices."""

import jax
import numpy as np
import pytest
from tiny import uneven_dataset

from miue_jax import budget
from miue_jax.machine import sharding
from miue_jax.methods import AlternatingSettings
from miue_jax.methods import delta as deltas
from miue_jax.settings.config import Method, Sgd
from miue_jax.settings.errors import UserError
from miue_jax.train import lanes

COUNT, CLASSES = 22, 3


def test_classes_may_have_different_fractions():
  labels = np.repeat([0, 1, 2], [10, 20, 30])
  chosen = deltas.chosen_images(labels, Method(class_fractions=(0.5, 1.0, 0.0)), 1)
  assert np.bincount(labels[chosen], minlength=3).tolist() == [5, 20, 0]
  of_one = deltas.chosen_images(labels[:10], Method(fraction=0.5), 1)
  np.testing.assert_array_equal(chosen[:10], of_one)
  chosen = deltas.chosen_images(labels, Method(class_fractions=(0.5,)), 1)
  assert np.bincount(labels[chosen]).tolist() == [5, 20, 30]


def test_a_larger_fraction_contains_a_smaller_one():
  labels = np.random.default_rng(0).integers(0, 4, 200)
  chosen = [
    set(np.flatnonzero(deltas.chosen_images(labels, Method(fraction=f), 1)))
    for f in (0.1, 0.35, 0.8, 1.0)
  ]
  assert [len(ids) for ids in chosen] == [20, 70, 160, 200]
  assert chosen[0] < chosen[1] < chosen[2] < chosen[3]
  other_seed = deltas.chosen_images(labels, Method(fraction=0.1), 2)
  assert set(np.flatnonzero(other_seed)) != chosen[0]


def test_a_choice_of_no_image_is_an_error():
  labels = np.arange(30) % 3
  with pytest.raises(UserError, match=r"method\.fraction=0\.01 .* leaves no image"):
    deltas.chosen_images(labels, Method(fraction=0.01), 0)
  with pytest.raises(UserError, match=r"class_fractions=\(0\.01, 0\.0, 0\.0\) leaves no image"):
    deltas.chosen_images(labels, Method(class_fractions=(0.01, 0.0, 0.0)), 0)


@pytest.mark.parametrize("class_wise", [False, True])
def test_noise_to_start_from_is_one_stream_in_example_order(use_devices, monkeypatch, class_wise):
  use_devices(2)
  monkeypatch.setattr(budget, "_BLOCK_VALUES", 180)  # five images; a generator draws pairs
  dataset = uneven_dataset(COUNT)
  settings = AlternatingSettings(init="random", class_wise=class_wise, epsilon=1 / 255)
  layout = lanes.lay_out(COUNT, (8,), 0)
  delta = deltas.first_delta(dataset, settings, layout, 3)
  stored = delta.stored
  stored = (
    sharding.fetch(stored) if class_wise else layout.fetch(stored, np.asarray, stored.shape[1:])
  )
  found = budget.unpack(stored, delta.parts).reshape(-1, 6, 6, 1)
  count = CLASSES if class_wise else COUNT
  noise = np.random.default_rng(3).random((count, 6, 6, 1), np.float32)
  expected = np.float32(1 / 255) * (2 * noise - 1)
  # The draws are float32 and stored in parts of a 255th.
  np.testing.assert_allclose(found, expected, rtol=0, atol=0.51 / delta.parts / 255)


@pytest.mark.parametrize("class_wise", [False, True])
def test_chosen_rows_are_fetched_from_any_device(use_devices, class_wise):
  use_devices(4)
  dataset = uneven_dataset(COUNT)
  settings = AlternatingSettings(init="random", class_wise=class_wise)
  layout = lanes.lay_out(COUNT, (8,), 0)
  delta = deltas.first_delta(dataset, settings, layout, 3)
  rows = np.array([len(layout.ids) - 1, 0, 7, 7], np.int32)
  labels = dataset.train.labels[np.maximum(layout.ids[rows], 0)]
  expected = jax.device_get(delta.stored)[labels if class_wise else rows].reshape(-1, 6, 6, 1)
  np.testing.assert_array_equal(delta.fetch(rows, labels), budget.unpack(expected, delta.parts))


def test_fewer_images_than_a_source_batch_are_refused():
  with pytest.raises(UserError, match="7 training images do not fill one source batch of 8"):
    deltas.lay_out(7, AlternatingSettings(source=Sgd(batch_size=8)), 0)
