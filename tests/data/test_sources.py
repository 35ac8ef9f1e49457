import numpy as np
import pytest
from sklearn import datasets

from miue_jax.data import sources
from miue_jax.settings import config
from miue_jax.settings.errors import UserError


def load(need_test=True, **settings):
  return sources.load(config.Data(**settings), need_test=need_test)


@pytest.fixture
def numbered(tmp_path):
  """Writes an npz file whose image i has the value i and the label i mod 4; it has no test set."""
  values = np.arange(40, dtype=np.uint8)
  images = np.broadcast_to(values[:, None, None], (40, 6, 8))
  np.savez(tmp_path / "numbered.npz", x_train=images, y_train=values % 4)
  return {"source": "npz", "path": str(tmp_path / "numbered.npz")}


def values(split):
  return split.images[:, 0, 0, 0].tolist()


def test_digits_are_all_of_scikit_learns():
  loaded = load()
  assert loaded.train.images.shape[1:] == (32, 32, 1)
  assert len(loaded.train) + len(loaded.test) == 1797
  assert loaded.class_names == tuple("0123456789")
  counts = np.bincount(np.concatenate([loaded.train.labels, loaded.test.labels]))
  np.testing.assert_array_equal(counts, np.bincount(datasets.load_digits().target))


def test_digits_at_the_original_size_are_scaled_to_0_255():
  bunch = datasets.load_digits()
  loaded = load(size=8, test_fraction=0, need_test=False)
  np.testing.assert_allclose(loaded.train.images[..., 0], bunch.images / 16 * 255, atol=0.5)
  np.testing.assert_array_equal(loaded.train.labels, bunch.target)


def test_digits_enlarged_average_to_the_original():
  small = load(size=8, test_fraction=0, need_test=False).train.images[..., 0].astype(float)
  large = load(test_fraction=0, need_test=False).train.images[..., 0].astype(float)
  blocks = large.reshape(-1, 8, 4, 8, 4).mean((2, 4))
  correlation = np.corrcoef(blocks.ravel(), small.ravel())[0, 1]
  assert correlation > 0.99


def test_held_out_set_is_stratified_and_disjoint(numbered):
  loaded = load(**numbered, test_fraction=0.3)
  np.testing.assert_array_equal(np.bincount(loaded.test.labels), [3, 3, 3, 3])
  assert sorted(values(loaded.train) + values(loaded.test)) == list(range(40))
  for split in (loaded.train, loaded.test):
    assert values(split) == sorted(values(split))
    np.testing.assert_array_equal(np.array(values(split)) % 4, split.labels)


def test_seed_decides_the_held_out_set(numbered):
  draws = [values(load(**numbered, seed=seed).test) for seed in (0, 0, 1)]
  assert draws[0] == draws[1] != draws[2]


def test_stages_without_a_test_set_see_the_same_training_set(numbered):
  assert (
    load(need_test=False, **numbered).fingerprint == load(need_test=True, **numbered).fingerprint
  )


def test_no_test_set(numbered):
  loaded = load(need_test=False, **numbered, test_fraction=0)
  assert loaded.test is None
  assert values(loaded.train) == list(range(40))
  with pytest.raises(UserError, match=r"numbered has no test set: set data.test_fraction above 0"):
    load(**numbered, test_fraction=0)


def test_subsets_are_stratified_parts_of_the_whole(numbered):
  whole = load(**numbered, test_fraction=0.4)
  part = load(**numbered, test_fraction=0.4, max_train=12, max_test=8)
  assert set(values(part.train)) < set(values(whole.train))
  assert set(values(part.test)) < set(values(whole.test))
  np.testing.assert_array_equal(np.bincount(part.train.labels), [3] * 4)
  np.testing.assert_array_equal(np.bincount(part.test.labels), [2] * 4)


def test_limits_beyond_the_data_keep_everything(numbered):
  whole = load(**numbered)
  assert load(**numbered, max_train=10**6, max_test=10**6).fingerprint == whole.fingerprint


def test_classes_are_kept_in_the_given_order(numbered):
  loaded = load(**numbered, classes=("3", "0"))
  assert loaded.class_names == ("3", "0")
  assert len(loaded.train) + len(loaded.test) == 20
  for split in (loaded.train, loaded.test):
    expected = [{3: 0, 0: 1}[value % 4] for value in values(split)]
    assert split.labels.tolist() == expected


def test_classes_are_selected_from_a_test_set_too(tmp_path):
  labels = np.array([0, 1, 2] * 4)
  images = np.broadcast_to(labels.astype(np.uint8)[:, None, None], (12, 4, 4))
  np.savez(tmp_path / "d.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
  loaded = load(source="npz", path=str(tmp_path / "d.npz"), classes=("2", "1"))
  np.testing.assert_array_equal(2 - loaded.test.labels, values(loaded.test))


def test_size_applies_to_arrays(numbered):
  loaded = load(**numbered, size=3)
  assert loaded.train.images.shape[1:] == loaded.test.images.shape[1:] == (3, 3, 1)
  assert set(values(loaded.train)) | set(values(loaded.test)) == set(range(40))


def test_test_images_of_another_size_need_data_size(tmp_path):
  labels = np.array([0, 1] * 2)
  arrays = {"x_train": np.zeros((4, 6, 8), np.uint8), "x_test": np.zeros((4, 6, 6), np.uint8)}
  np.savez(tmp_path / "d.npz", y_train=labels, y_test=labels, **arrays)
  settings = {"source": "npz", "path": str(tmp_path / "d.npz")}
  with pytest.raises(UserError, match=r"are 8 x 6 pixels and test images 6 x 6: set data.size"):
    load(**settings)
  assert load(**settings, size=4).test.images.shape == (4, 4, 4, 1)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"source": "imagenet"}, "set it to one of digits, folder, npz, tfds"),
    ({"classes": ("1", "7", "ten")}, "names 'ten', which digits does not have: choose from 0, 1"),
    ({"classes": ("1", "7", "1")}, "names a class twice"),
    ({"classes": ("1",)}, "digits has one class"),
    ({"max_train": 10}, "every class needs at least 2"),
  ],
)
def test_every_mistake_is_named(settings, message):
  with pytest.raises(UserError, match=message):
    load(**settings)
