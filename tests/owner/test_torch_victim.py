"""Tests the victim in PyTorch: it learns what can be learned, and needs PyTorch."""

import sys

import numpy as np
import pytest

from miue_jax.owner import torch_victim
from miue_jax.settings.errors import UserError


def squares(seed, count):
  """Returns noise in two classes, one of which has a bright square in the middle."""
  random = np.random.default_rng(seed)
  images = random.integers(0, 128, (count, 16, 16, 3), np.uint8)
  labels = np.arange(count) % 2
  images[labels == 1, 4:12, 4:12] += 100
  return images, labels.astype(np.int32)


def test_without_pytorch_the_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(UserError, match=r"miue-jax\[torch\]"):
    torch_victim.require()


def test_it_learns_and_repeats(monkeypatch):
  pytest.importorskip("torch")
  monkeypatch.setattr(torch_victim, "_UPDATES", 0)
  monkeypatch.setattr(torch_victim, "_WIDTHS", (4, 8, 8))
  last, best = torch_victim.train(squares(0, 128), squares(1, 64), seed=3)
  assert last <= best
  assert last > 90
  assert torch_victim.train(squares(0, 128), squares(1, 64), seed=3) == (last, best)


def test_shuffled_labels_teach_nothing(monkeypatch):
  pytest.importorskip("torch")
  monkeypatch.setattr(torch_victim, "_UPDATES", 0)
  monkeypatch.setattr(torch_victim, "_WIDTHS", (4, 8, 8))
  images, labels = squares(0, 128)
  shuffled = np.random.default_rng(0).permutation(labels)
  last, _ = torch_victim.train((images, shuffled), squares(1, 64), seed=3)
  assert 25 < last < 75
