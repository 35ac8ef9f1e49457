"""Tests the loaders of scrapers."""

import numpy as np
import pytest

from miue_jax.owner import pipelines
from miue_jax.pictures.decode import Picture


def picture(height, width):
  rows, columns = np.mgrid[:height, :width]
  values = (rows * 255 // (height - 1) + columns * 0) if height > 1 else rows
  return Picture(np.repeat(values.astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("name", list(pipelines.PIPELINES))
def test_shapes(name):
  for size in ((40, 90), (90, 40), (17, 16)):
    loaded = pipelines.PIPELINES[name](picture(*size), 24)
    assert loaded.shape == (24, 24, 3)
    assert loaded.dtype == np.uint8


def test_the_centre_leaves_margins_out():
  whole, centre = (
    pipelines.PIPELINES[name](picture(96, 96), 24).astype(int)
    for name in ("the whole picture", "the centre")
  )
  assert centre[0].mean() > whole[0].mean() + 5
  # 1/2 - 7/16 of the height is left out on each side.
  assert centre[0].mean() == pytest.approx(255 / 16, abs=8)


def test_jpeg_removes_what_is_fine_and_keeps_what_is_coarse():
  noise = np.random.default_rng(0).integers(-8, 9, (64, 64, 3))
  coarse = np.kron(noise[:4, :4], np.ones((16, 16, 1), int))
  kept = []
  for change in (noise, coarse):
    changed = Picture((128 + change).astype(np.uint8))
    loaded = pipelines.jpeg(50)(changed, 64).astype(int) - 128
    kept.append(np.abs(loaded).mean() / np.abs(change).mean())
  assert kept[0] < 0.5 < 0.8 < kept[1]
