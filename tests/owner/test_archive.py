"""Tests what is an archive of images, and what is not."""

import numpy as np
import pytest

from miue_jax.owner import archive
from miue_jax.settings.errors import UserError

IMAGES = np.zeros((4, 5, 6), np.uint8)
LABELS = np.array([[0], [1], [0], [1]], np.uint8)


def written(path, **arrays):
  np.savez(path, **arrays)
  return path


def test_all_parts_of_both_layouts_are_found(tmp_path):
  names = ("train_images", "train_labels", "val_images", "val_labels")
  path = written(tmp_path / "a.npz", **dict(zip(names, [IMAGES, LABELS] * 2, strict=True)))
  assert archive.pairs(archive.read(path)) == [names[:2], names[2:]]
  path = written(tmp_path / "b.npz", x_test=IMAGES, y_test=LABELS[:, 0], class_names=["a", "b"])
  assert archive.pairs(archive.read(path)) == [("x_test", "y_test")]
  assert archive.is_archive(path)
  assert not archive.is_archive(tmp_path)
  assert archive.found_in(tmp_path) == [tmp_path / "a.npz", tmp_path / "b.npz"]
  assert archive.found_in(path) == [path]
  assert archive.found_in(tmp_path / "none") == []


@pytest.mark.parametrize(
  ("arrays", "said"),
  [
    ({"photos": IMAGES}, "needs images and their labels"),
    ({"train_images": IMAGES}, "needs images and their labels"),
    ({"x_train": IMAGES, "y_train": LABELS, "thumbnails": IMAGES}, "thumbnails.* remove it"),
    ({"x_train": IMAGES / 255, "y_train": LABELS}, "must be uint8"),
    ({"x_train": IMAGES, "y_train": np.ones((4, 14), int)}, "several labels or none"),
    ({"x_train": IMAGES, "y_train": np.array([None] * 4)}, "never loaded"),
  ],
)
def test_what_is_refused(tmp_path, arrays, said):
  with pytest.raises(UserError, match=said):
    archive.read(written(tmp_path / "a.npz", **arrays))


def test_an_archive_gets_no_other_labels(tmp_path):
  path = written(tmp_path / "a.npz", x_train=IMAGES, y_train=LABELS)
  refused = pytest.raises(UserError, match=r"a\.npz has labels: leave --labels out")
  with refused, archive.as_folder(path, tmp_path / "labels.csv"):
    pass
