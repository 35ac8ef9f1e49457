"""Poisons: exact round trips, measured quality, and checks of untrusted files."""

import errno
import hashlib
import json
import os
import re
import resource
import tempfile

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from miue_jax.artefact.poison import Poison
from miue_jax.data import images as images_lib
from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.images import Images, LazyImages
from miue_jax.settings.errors import UserError

EPSILON = 8 / 255


def make_dataset(images, labels=None, name="tiny"):
  labels = np.arange(len(images), dtype=np.int32) % 2 if labels is None else labels
  return Dataset(name, Split(images, labels), None, ("cat", "dog"))


def make_poison(dataset, delta, **changes):
  settings = {
    "method": "miue",
    "epsilon": EPSILON,
    "config": {"seed": 3, "classes": ("a", "b")},
    "seed": 3,
    "seconds": 1.5,
  }
  return Poison.make(dataset, delta, **(settings | changes))


def tiny(seed=0, shape=(6, 8, 8, 3), budget=8):
  """Returns a random dataset and a random delta that keeps its pixels in 0..255."""
  rng = np.random.default_rng(seed)
  images = rng.integers(budget, 256 - budget, shape, dtype=np.uint8)
  delta = rng.integers(-budget, budget + 1, shape, dtype=np.int8)
  return make_dataset(images), delta


@pytest.fixture
def saved(tmp_path):
  dataset, delta = tiny()
  make_poison(dataset, delta).save(tmp_path / "poison")
  return tmp_path / "poison", dataset


def edit_manifest(directory, **changes):
  path = directory / "manifest.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


shapes = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))


@st.composite
def images_and_deltas(draw):
  """Draws images and a pattern within a budget, quantised by a loop over Python's integers."""
  shape, budget = draw(shapes), draw(st.integers(1, 127))
  images = draw(hnp.arrays(np.uint8, shape))
  pattern = draw(hnp.arrays(np.int8, shape, elements=st.integers(-budget, budget)))
  pairs = zip(images.ravel().tolist(), pattern.ravel().tolist(), strict=True)
  quantised = [min(max(x + d, 0), 255) - x for x, d in pairs]
  return images, np.array(quantised, np.int8).reshape(shape), budget


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(images_and_deltas())
def test_apply_is_within_budget_and_restore_undoes_it(case):
  images, delta, budget = case
  poison = make_poison(make_dataset(images), delta, epsilon=budget / 255)
  poisoned = poison.apply(images)
  assert poisoned.dtype == np.uint8
  assert np.array_equal(poisoned.astype(int), images.astype(int) + delta)
  assert np.abs(poisoned.astype(int) - images).max() <= budget
  assert np.array_equal(poison.restore(poisoned), images)


@hypothesis.settings(
  deadline=None,
  max_examples=40,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(st.data())
def test_unbounded_changes_are_stored_in_two_bytes_and_undone(tmp_path, data):
  shape = data.draw(shapes)
  images, poisoned = (data.draw(hnp.arrays(np.uint8, shape)) for _ in range(2))
  delta = poisoned.astype(np.int16) - images
  dataset = make_dataset(images)
  directory = tempfile.mkdtemp(dir=tmp_path)
  make_poison(dataset, delta, norm="none").save(directory)
  poison = Poison.load(directory, dataset)
  assert poison.delta.dtype == np.int16
  assert (poison.manifest["epsilon"], poison.manifest["epsilon_255ths"]) == (1, 255)
  assert poison.manifest["budget"].startswith("none")
  np.testing.assert_array_equal(poison.apply(images), poisoned)
  np.testing.assert_array_equal(poison.restore(poisoned), images)


def test_an_l2_budget_is_stated_and_checked(saved):
  dataset, delta = tiny()
  level = np.sqrt((delta.astype(float) ** 2).mean(axis=(1, 2, 3))).max()
  poison = make_poison(dataset, delta, epsilon=1.01 * level / 255, norm="l2")
  assert poison.manifest["norm"] == "l2"
  assert f"{1.01 * level:.4g}"[:4] in poison.manifest["budget"]
  with pytest.raises(ValueError, match="root mean square change exceeds"):
    make_poison(dataset, delta, epsilon=0.99 * level / 255, norm="l2")
  directory, _ = saved
  poison.save(directory)
  assert np.array_equal(Poison.load(directory, dataset).delta, delta)
  edit_manifest(directory, epsilon=0.99 * level / 255)
  with pytest.raises(UserError, match="root mean square change exceeds"):
    Poison.load(directory, dataset)


def test_a_stated_norm_decides_the_type_on_the_disk(saved):
  directory, dataset = saved
  edit_manifest(directory, norm="none", epsilon=1.0)
  with pytest.raises(UserError, match=r"is int8 of shape .* the manifest says int16"):
    Poison.load(directory, dataset)
  with pytest.raises(ValueError, match=r"delta is int8 .*; expected int16"):
    make_poison(dataset, tiny()[1], norm="none")


def test_round_trip_across_chunks():
  dataset, delta = tiny(shape=(2050, 2, 2, 1))
  poison = Poison(delta, {})
  poisoned = poison.apply(dataset.train.images[:])
  assert np.array_equal(poisoned.astype(int) - dataset.train.images[:], delta)
  assert np.array_equal(poison.restore(poisoned), dataset.train.images)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray, Images])
@pytest.mark.parametrize("gray", [False, True])
def test_images_of_every_kind_come_back_in_their_kind_and_shape(kind, gray):
  dataset, delta = tiny(shape=(5, 8, 8, 1) if gray else (5, 8, 8, 3))
  poison, images = make_poison(dataset, delta), dataset.train.images[:]
  expected = (images.astype(int) + delta).astype(np.uint8)
  if gray and kind is not Images:
    images, expected = images[..., 0], expected[..., 0]
  clean = kind(images)
  poisoned = poison.apply(clean)
  assert isinstance(poisoned, type(clean))
  np.testing.assert_array_equal(np.asarray(poisoned), expected, strict=True)
  np.testing.assert_array_equal(np.asarray(poison.restore(poisoned)), images, strict=True)


@pytest.mark.parametrize(("pixel", "change"), [(0, -1), (255, 1)])
def test_pixels_that_leave_the_range_are_refused(pixel, change):
  images = np.full((2, 4, 4, 1), pixel, np.uint8)
  poison = Poison(np.full(images.shape, change, np.int8), {})
  with pytest.raises(UserError, match="not the images"):
    poison.apply(images)
  with pytest.raises(UserError, match="not the images"):
    Poison(-poison.delta, {}).restore(images)


@pytest.mark.parametrize("images", [np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 4, 4, 1))])
def test_images_of_another_shape_or_type_are_refused(images):
  with pytest.raises(UserError, match="use the images it was made for"):
    Poison(np.zeros((2, 4, 4, 1), np.int8), {}).apply(images)


def test_quality_of_flat_images_matches_closed_forms():
  # Without variance, SSIM is its luminance term, and the error is d everywhere.
  clean, change = 100.0, 8.0
  images = np.full((3, 8, 8, 3), clean, np.uint8)
  delta = np.zeros(images.shape, np.int8)
  delta[:2] = int(change)  # the third image is unchanged and must not count
  manifest = make_poison(make_dataset(images), delta).manifest
  constant = (0.01 * 255) ** 2
  ssim = (2 * clean * (clean + change) + constant) / (clean**2 + (clean + change) ** 2 + constant)
  assert manifest["psnr_db"] == pytest.approx(20 * np.log10(255 / change), rel=1e-6)
  assert manifest["ssim"] == pytest.approx(ssim, rel=1e-6)
  assert manifest["changed_images"] == 2
  assert manifest["max_delta_255ths"] == 8


def test_psnr_is_the_mean_over_images_in_db():
  images = np.full((2, 8, 8, 1), 50, np.uint8)
  delta = np.stack([np.full((8, 8, 1), d, np.int8) for d in (1, 4)])
  manifest = make_poison(make_dataset(images), delta).manifest
  assert manifest["psnr_db"] == pytest.approx(20 * np.log10(255) - 10 * np.log10(4), rel=1e-6)


@pytest.mark.parametrize("side", [2, 3, 6])
def test_ssim_of_small_images(side):
  dataset, delta = tiny(shape=(2, side, side, 3))
  ssim = make_poison(dataset, delta).manifest["ssim"]
  assert (ssim is None) == (side < 3)


def test_no_change_has_no_quality():
  dataset, delta = tiny()
  manifest = make_poison(dataset, np.zeros_like(delta)).manifest
  assert (manifest["psnr_db"], manifest["ssim"], manifest["changed_images"]) == (None, None, 0)


def test_manifest_says_where_the_poison_comes_from():
  dataset, delta = tiny()
  ids = np.array([0, 2])
  delta[[1, 3, 4, 5]] = 0
  manifest = make_poison(dataset, delta, extra={"perturbed": ids}).manifest
  assert manifest["fingerprint"] == dataset.fingerprint
  assert manifest["delta_sha256"] == hashlib.sha256(delta.tobytes()).hexdigest()
  assert manifest["shape"] == [6, 8, 8, 3]
  assert (manifest["method"], manifest["seed"], manifest["seconds"]) == ("miue", 3, 1.5)
  assert (manifest["epsilon"], manifest["epsilon_255ths"]) == (EPSILON, 8)
  assert manifest["config"] == {"seed": 3, "classes": ["a", "b"]}
  assert manifest["perturbed"] == [0, 2]
  assert manifest["versions"]["numpy"] == np.__version__
  assert {"miue-jax", "jax", "jaxlib", "flax", "python"} < set(manifest["versions"])


def test_lazy_images_make_the_same_poison(monkeypatch):
  monkeypatch.setattr(images_lib, "BLOCK", 4)
  dataset, delta = tiny()
  images, read = dataset.train.images, []
  lazy = LazyImages(
    lambda ids: read.append(len(ids)) or images[ids],
    len(images),
    "tiny",
    image_shape=images.shape[1:],
    digests=images.digests,
  )
  made = make_poison(make_dataset(lazy, dataset.train.labels), delta)
  assert made.manifest == make_poison(dataset, delta).manifest
  assert read == [4, 2, 6]  # two blocks of the check, and the images of the SSIM
  poisoned = made.apply(lazy)
  np.testing.assert_array_equal(poisoned[1:3], images[1:3] + delta[1:3])
  np.testing.assert_array_equal(made.restore(poisoned)[np.array([5, 0])], images[[5, 0]])
  with pytest.raises(UserError, match="for uint8 images of shape"):
    Poison(delta[:5], made.manifest).apply(lazy)


def test_make_refuses_a_delta_that_is_not_quantised():
  dataset, delta = tiny()
  with pytest.raises(ValueError, match="int8"):
    make_poison(dataset, delta.astype(np.int16))
  with pytest.raises(ValueError, match="int8"):
    make_poison(dataset, delta[:3])
  with pytest.raises(ValueError, match="9/255"):
    make_poison(dataset, np.full_like(delta, 9))
  with pytest.raises(ValueError, match="128/255"):  # whose int8 absolute value is -128
    make_poison(dataset, np.full_like(delta, -128))
  with pytest.raises(ValueError, match="JSON"):
    make_poison(dataset, delta, config={"rate": float("nan")})


def test_save_and_load(saved):
  directory, dataset = saved
  _, delta = tiny()
  poison = Poison.load(directory, dataset)
  assert poison.delta.dtype == np.int8
  assert np.array_equal(poison.delta, delta)
  assert poison.manifest == make_poison(dataset, delta).manifest
  assert np.array_equal(Poison.load(directory).delta, delta)
  assert np.array_equal(np.load(directory / "delta.npy", allow_pickle=False), delta)
  assert sorted(os.listdir(directory)) == ["delta.npy", "manifest.json"]


def test_poisons_are_equal_if_they_change_the_same_images_in_the_same_way(saved):
  directory, dataset = saved
  _, delta = tiny()
  poison = Poison.load(directory)
  assert poison == make_poison(dataset, delta, seconds=7.5)
  assert poison != make_poison(dataset, -delta)
  assert poison != make_poison(make_dataset(dataset.train.images, 1 - dataset.train.labels), delta)
  assert poison != 3


def test_another_dataset(saved):
  directory, dataset = saved
  other = make_dataset(dataset.train.images, 1 - dataset.train.labels, "other")
  with pytest.raises(UserError, match=r"belongs to another dataset.*'tiny'.*'other'"):
    Poison.load(directory, other)


def test_a_dataset_of_another_shape_or_no_dataset(saved):
  directory, dataset = saved
  images = dataset.train.images[:]
  shape = re.escape(str([*images.shape, 1]))
  with pytest.raises(UserError, match=f"belongs to another dataset.* have shape {shape}"):
    Poison.load(directory, make_dataset(images[..., None], dataset.train.labels, "other"))
  with pytest.raises(UserError, match="dataset is ndarray: give a Dataset"):
    Poison.load(directory, images)


def test_missing_poison(saved, tmp_path):
  directory, dataset = saved
  with pytest.raises(UserError, match="no complete poison"):
    Poison.load(tmp_path / "nowhere", dataset)
  (directory / "delta.npy").unlink()
  with pytest.raises(UserError, match=r"delta\.npy is missing"):
    Poison.load(directory, dataset)


def test_truncated_delta_at_every_length(saved):
  directory, dataset = saved
  path = directory / "delta.npy"
  content = path.read_bytes()
  for length in [*range(0, 140, 7), len(content) // 2, len(content) - 1]:
    path.write_bytes(content[:length])
    with pytest.raises(UserError, match=r"delta\.npy"):
      Poison.load(directory, dataset)


@hypothesis.settings(
  deadline=None,
  max_examples=100,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(st.data())
def test_no_flipped_byte_of_the_delta_goes_unnoticed(saved, data):
  directory, dataset = saved
  path = directory / "delta.npy"
  content = path.read_bytes()
  try:
    damaged = bytearray(content)
    position = data.draw(st.integers(0, len(content) - 1))
    damaged[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    try:
      loaded = Poison.load(directory, dataset).delta
    except UserError:
      return
    # Some bytes of the header are only padding.
    assert np.array_equal(loaded, tiny()[1])
    assert position < len(content) - loaded.size
  finally:
    path.write_bytes(content)


@pytest.mark.parametrize("change", [lambda d: d[:5], lambda d: d.astype(np.int16)])
def test_delta_of_another_shape_or_type(saved, change):
  directory, dataset = saved
  np.save(directory / "delta.npy", change(tiny()[1]))
  with pytest.raises(UserError, match="the manifest says int8"):
    Poison.load(directory, dataset)


def test_delta_over_the_budget(saved):
  directory, dataset = saved
  edit_manifest(directory, epsilon=4 / 255)
  with pytest.raises(UserError, match="8/255 but its budget is 4/255"):
    Poison.load(directory, dataset)


@pytest.mark.parametrize("value", [None, True, [], {}, "8"])
def test_manifest_with_values_of_other_types(saved, value):
  directory, dataset = saved
  path = directory / "manifest.json"
  manifest = json.loads(path.read_text())
  for key, right in manifest.items():
    if type(value) is type(right) or (value is None and key in ("psnr_db", "ssim")):
      continue
    path.write_text(json.dumps(manifest | {key: value}))
    with pytest.raises(UserError, match=r"manifest\.json"):
      Poison.load(directory, dataset)


def test_manifest_without_a_key(saved):
  directory, dataset = saved
  path = directory / "manifest.json"
  manifest = json.loads(path.read_text())
  for key in manifest:
    path.write_text(json.dumps({k: v for k, v in manifest.items() if k != key}))
    with pytest.raises(UserError, match=f"valid '{key}'"):
      Poison.load(directory, dataset)


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("format", 1),
    ("epsilon", 0),
    ("epsilon", -0.1),
    ("epsilon", 1),
    ("epsilon", 10**400),
    ("epsilon", float("inf")),
    ("shape", [[6, 8, 8, 3]]),
    ("shape", [6, 8, 8]),
    ("shape", [6, 8, 8, 2]),
    ("shape", [-6, 8, 8, 3]),
    ("shape", [6, 8, 8.0, 3]),
    ("norm", "l1"),
    ("norm", None),
    ("norm", ["l2"]),
    ("perturbed", [6]),
    ("perturbed", [True]),
    ("perturbed", "all"),
  ],
)
def test_manifest_with_impossible_values(saved, key, value):
  directory, dataset = saved
  edit_manifest(directory, **{key: value})
  with pytest.raises(UserError, match=r"manifest\.json"):
    Poison.load(directory, dataset)


def no_space(*_, **__):
  raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_full_disk(saved, monkeypatch, function):
  directory, dataset = saved
  poison = Poison.load(directory, dataset)
  monkeypatch.setattr(os, function, no_space)
  with pytest.raises(UserError, match=r"delta\.npy: No space left on device; free some space"):
    poison.save(directory)
  monkeypatch.undo()
  # The rest is not accepted as a poison, and no temporary file remains.
  with pytest.raises(UserError, match="no complete poison"):
    Poison.load(directory, dataset)
  assert os.listdir(directory) == ["delta.npy"]


def test_a_write_that_the_system_interrupts(tmp_path):
  dataset, delta = tiny(shape=(40, 16, 16, 3))
  poison = make_poison(dataset, delta)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
  try:
    with pytest.raises(UserError, match=r"delta\.npy: File too large"):
      poison.save(tmp_path)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert os.listdir(tmp_path) == []


def test_folder_that_cannot_be_made(tmp_path):
  dataset, delta = tiny()
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match=r"Cannot write .*file/poison: Not a directory"):
    make_poison(dataset, delta).save(tmp_path / "file" / "poison")


def test_another_poison_in_the_folder_is_not_replaced(saved):
  directory, dataset = saved
  kept = Poison.load(directory, dataset)
  other = make_poison(*tiny(seed=1))
  assert (other.delta != kept.delta).any()
  with pytest.raises(UserError, match=r"holds another poison.*choose another folder"):
    other.save(directory)
  kept.save(directory)
  np.testing.assert_array_equal(Poison.load(directory, dataset).delta, kept.delta)


def test_crash_between_the_two_files_leaves_no_poison(saved, monkeypatch):
  directory, dataset = saved
  _, delta = tiny(seed=1)
  replace = os.replace

  def crash_at_the_manifest(source, target):
    if str(target).endswith("manifest.json"):
      raise KeyboardInterrupt
    replace(source, target)

  monkeypatch.setattr(os, "replace", crash_at_the_manifest)
  with pytest.raises(KeyboardInterrupt):
    Poison(delta, Poison.load(directory).manifest).save(directory)
  monkeypatch.undo()
  with pytest.raises(UserError, match="no complete poison"):
    Poison.load(directory, dataset)


@pytest.mark.parametrize("path", ["", 3, "gs://bucket/key", "~nobody/key"])
def test_a_poison_is_saved_in_a_folder_of_this_machine(path, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=r"name a folder|name its folder|whole path"):
    make_poison(*tiny()).save(path)
  assert not list(tmp_path.iterdir())
