"""Tests that pictures without labels are grouped."""

import numpy as np
import pytest
from PIL import Image

from miue_jax.machine import meshes
from miue_jax.owner import clusters, load, private
from miue_jax.pictures import survey
from miue_jax.settings.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compiler")


def test_rotations_are_told_apart():
  image = np.arange(2 * 2).reshape(1, 2, 2, 1).astype(np.uint8)
  images, turns = clusters.rotated(image)
  assert turns.tolist() == [0, 1, 2, 3]
  assert images[..., 0].tolist() == [
    [[0, 1], [2, 3]],
    [[1, 3], [0, 2]],
    [[3, 2], [1, 0]],
    [[2, 0], [3, 1]],
  ]


def test_lost_groups_of_published_pictures_are_not_made_anew(tmp_path):
  nothing = np.zeros((0, 8, 8, 3), np.uint8)
  loaded = load.Loaded((), (), nothing, nothing, nothing[..., 0], ())
  with private.opened(tmp_path / "out") as store:
    with pytest.raises(UserError, match="does not hold the groups of these pictures: put back"):
      clusters.grouped(store, loaded, 2, 3, published=True)
    with pytest.raises(UserError, match="0 pictures are too few for 2 groups"):
      clusters.grouped(store, loaded, 2, 3)


@pytest.mark.long
def test_groups_are_kept_for_later_pictures(tmp_path, monkeypatch):
  monkeypatch.setattr(clusters, "_EPOCHS", (1, 1))
  for number in range(16):
    rng = np.random.default_rng(number)
    dark = number % 2
    values = rng.integers(0, 20, (16, 16, 3)) + 220 * dark
    Image.fromarray(values.astype(np.uint8)).save(tmp_path / f"{number:02}.png")
  meshes.start(2, (8,))
  found = survey.survey(tmp_path, unlabelled=True)
  loaded = load.load(tmp_path, found.pictures, 8, 8, quiet=True)
  with private.opened(tmp_path / "out") as store:
    grouped = clusters.grouped(store, loaded.take(range(12)), 2, 3)
    groups = [picture.class_name for picture in grouped.pictures]
    assert set(groups[::2]) != set(groups[1::2])
    assert set(groups) == set(clusters.names(2))
    later = clusters.grouped(store, loaded, 2, 3)
    assert [picture.class_name for picture in later.pictures][:12] == groups
    np.savez(store.centres, centres=np.ones((2, 3), np.float32))
    with pytest.raises(UserError, match="does not hold the groups of these pictures"):
      clusters.grouped(store, loaded, 2, 3)
    store.rotations.unlink()
    with pytest.raises(UserError, match="does not hold the groups of these pictures"):
      clusters.grouped(store, loaded, 2, 3)
