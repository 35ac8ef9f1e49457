"""Tests LSP: patches, and perturbations that a linear classifier separates."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from miue_jax.data.dataset import Dataset, Split
from miue_jax.methods import METHODS, lsp
from miue_jax.settings.errors import UserError

CLASSES = 10


def run(count=300, shape=(32, 32, 3), classes=CLASSES, value=128, **changes):
  images = np.full((count, *shape), value, np.uint8)
  labels = np.arange(count, dtype=np.int32) % classes
  dataset = Dataset("gray", Split(images, labels), None, tuple(map(str, range(classes))))
  return METHODS["lsp"].generate(dataset, lsp.Settings(**changes), 4, None, None).delta, labels


@pytest.mark.parametrize("budget", [{}, {"norm": "linf", "epsilon": 8 / 255}])
def test_perturbations_alone_are_linearly_separable(budget):
  delta, labels = run(**budget)
  flat = delta.reshape(len(delta), -1) / 255
  # The model is tested on the other half: it does not merely fit many pixels to few images.
  model = LogisticRegression(C=100).fit(flat[:150], labels[:150])
  assert model.score(flat[150:], labels[150:]) == 1
  # Images of a class differ: there is more than one pattern for each class.
  assert len(np.unique(flat, axis=0)) == len(flat)


@pytest.mark.parametrize("shape", [(32, 32, 3), (20, 13, 1)])
def test_a_patch_has_one_value(shape):
  delta, _ = run(count=20, shape=shape)
  for top in range(0, shape[0], 8):
    for left in range(0, shape[1], 8):
      patch = delta[:, top : top + 8, left : left + 8]
      assert (patch == patch[:, :1, :1]).all()
  assert len(np.unique(delta[0])) > 4


def test_the_published_budget_is_used_up():
  delta, _ = run()
  lengths = np.linalg.norm(delta.reshape(len(delta), -1).astype(float), axis=1)
  allowed = 6 * np.sqrt(32 * 32 * 3)
  assert (lengths <= allowed).all()
  assert (lengths >= 0.95 * allowed).all()


def test_clusters_have_the_corners_for_means():
  delta, labels = run(count=4000, classes=4)
  means = np.stack([delta[labels == label, ::8, ::8].mean(axis=0).ravel() for label in range(4)])
  # Corners have entries of one size; noise and scaling blur them equally.
  sizes = np.abs(means) / np.abs(means).mean()
  assert np.abs(sizes - 1).max() < 0.25
  assert len(np.unique(np.sign(means), axis=0)) == 4


def test_images_with_too_few_patches_are_refused():
  with pytest.raises(UserError, match="LSP has 8 patterns for images of this size, not 10"):
    run(count=20, shape=(8, 8, 3))
  run(count=16, shape=(8, 8, 3), classes=8)
