"""Tests methods without a source model: budget, choice of images, seed."""

import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from miue_jax import budget
from miue_jax.artefact.poison import Poison
from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.images import LazyImages
from miue_jax.methods import METHODS, pattern
from miue_jax.methods.shared_settings import PatternSettings
from miue_jax.settings.errors import UserError

NAMES = ("ar", "cuda", "lsp", "ops", "random")
CLASSES = 4


def make_dataset(count=24, shape=(16, 16, 3), seed=0):
  rng = np.random.default_rng(seed)
  # Some pixels are black or white, where a change fits in one direction only.
  images = rng.integers(-40, 296, (count, *shape)).clip(0, 255).astype(np.uint8)
  labels = rng.permutation(np.arange(count, dtype=np.int32) % CLASSES)
  return Dataset("tiny", Split(images, labels), None, tuple("abcd"))


def run(name, dataset, seed=3, **changes):
  method = METHODS[name]
  return method.generate(dataset, method.settings(**changes), seed, None, None)


@pytest.mark.parametrize("name", NAMES)
@hypothesis.settings(deadline=None, max_examples=8)
@hypothesis.given(
  levels=st.floats(0.51, 127),
  norm=st.sampled_from(budget.NORMS),
  shape=st.sampled_from([(16, 16, 3), (12, 17, 1)]),
  seed=st.integers(0, 2**32 - 1),
)
def test_every_image_keeps_its_budget(name, levels, norm, shape, seed):
  dataset = make_dataset(12, shape, seed=seed % 7)
  delta = run(name, dataset, seed, epsilon=levels / 255, norm=norm).delta
  assert delta.dtype == (np.int16 if norm == "none" else np.int8)
  poisoned = dataset.train.images[:] + delta.astype(int)
  assert poisoned.min() >= 0
  assert poisoned.max() <= 255
  changes = (poisoned - dataset.train.images[:].astype(int)).reshape(len(delta), -1)
  if norm == "linf":
    assert np.abs(changes).max() <= round(levels)
  elif norm == "l2":
    assert np.sqrt((changes**2).mean(axis=1)).max() <= levels * (1 + 1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("norm", budget.NORMS)
def test_the_artefact_restores_the_images(name, norm, tmp_path):
  dataset, epsilon = make_dataset(), 6 / 255
  delta = run(name, dataset, norm=norm, epsilon=epsilon).delta
  made = Poison.make(
    dataset, delta, method=name, epsilon=epsilon, norm=norm, config={}, seed=3, seconds=0.0
  )
  made.save(tmp_path)
  poison = Poison.load(tmp_path, dataset)
  clean = dataset.train.images[:]
  poisoned = poison.apply(clean)
  assert (poisoned != clean).any(axis=(1, 2, 3)).all()
  np.testing.assert_array_equal(poison.restore(poisoned), clean)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides(name):
  dataset = make_dataset()
  first, same, other = (run(name, dataset, seed) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first.delta, same.delta)
  # A one-pixel shortcut is searched for, not drawn.
  assert (first.delta != other.delta).any() == (name != "ops")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("changes", [{"fraction": 0.5}, {"only_class": 2}])
def test_only_the_chosen_images_change_and_in_the_same_way(name, changes):
  dataset = make_dataset()
  whole, part = run(name, dataset), run(name, dataset, **changes)
  assert whole.perturbed is None
  changed = np.flatnonzero(part.delta.any(axis=(1, 2, 3)))
  np.testing.assert_array_equal(part.perturbed, changed)
  assert len(changed) == (12 if "fraction" in changes else 6)
  np.testing.assert_array_equal(part.delta[changed], whole.delta[changed])


@pytest.mark.parametrize("name", NAMES)
def test_images_that_are_read_when_needed_get_the_same_delta(name, monkeypatch):
  monkeypatch.setattr(pattern, "_BLOCK_VALUES", 7 * 16 * 16 * 3)
  dataset, read = make_dataset(), []
  images = dataset.train.images
  lazy = LazyImages(
    lambda ids: read.append(len(ids)) or images[ids],
    len(images),
    "tiny",
    image_shape=images.shape[1:],
    digests=images.digests,
  )
  split = dataclasses.replace(dataset.train, images=lazy)
  made = run(name, dataclasses.replace(dataset, train=split))
  np.testing.assert_array_equal(made.delta, run(name, dataset).delta)
  assert read[-4:] == [7, 7, 7, 3]


def test_a_pattern_just_reaches_its_budget():
  drawn = np.random.default_rng(0).standard_normal((3, 8, 8, 3)).astype(np.float32)
  scaled = pattern.to_budget(drawn, 0.25, "linf")
  np.testing.assert_allclose(np.abs(scaled).max(axis=(1, 2, 3)), 0.25, rtol=1e-6)
  scaled = pattern.to_budget(drawn, 0.25, "l2")
  np.testing.assert_allclose(
    np.linalg.norm(scaled.reshape(3, -1), axis=1), 0.25 * np.sqrt(8 * 8 * 3), rtol=1e-6
  )
  assert pattern.to_budget(drawn, 0.25, "none") is drawn
  assert not pattern.to_budget(np.zeros_like(drawn), 0.25, "l2").any()


@pytest.mark.parametrize(
  "values", [np.full((24, 16, 16, 3), np.nan), np.ones((24, 16, 16, 3), np.int8), np.ones((4, 16))]
)
def test_a_pattern_of_another_kind_is_refused(values):
  method = pattern.Pattern(PatternSettings, lambda *_: lambda generator, images, labels: values)
  with pytest.raises(UserError, match=r"The pattern of .* is .*: return finite floats in \[0, 1\]"):
    method.generate(make_dataset(), PatternSettings(name="mine"), 0, None, None)
