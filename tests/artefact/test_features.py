"""Tests the reader of feature files, also with damaged and hostile ones."""

import pathlib
import pickle

import numpy as np
import pytest

from miue_jax.artefact import features
from miue_jax.information import ESTIMATORS
from miue_jax.settings.errors import UserError


@pytest.fixture
def path(tmp_path):
  return tmp_path / "features.npz"


def test_reads_the_array_of_a_key(path):
  clean, poisoned = np.random.default_rng(0).random((2, 20, 3))
  np.savez_compressed(path, clean=clean, poisoned=poisoned)
  np.testing.assert_array_equal(features.load(path, "poisoned"), poisoned)
  with pytest.raises(UserError, match="holds clean, poisoned: name the array"):
    features.load(path)
  with pytest.raises(UserError, match="no array 'x'; it holds clean, poisoned"):
    features.load(path, "x")


def test_a_single_array_needs_no_key_and_may_be_one_feature(path):
  np.savez(path, np.arange(9, dtype=np.int16))
  found = features.load(str(path))
  assert found.shape == (9, 1)
  assert ESTIMATORS["gaussian"](found, found[::-1] ** 2, bootstrap=0, null=0).samples == 9


class Exploit:
  def __init__(self, marker):
    self.marker = marker

  def __reduce__(self):
    return pathlib.Path.touch, (self.marker,)


def test_nothing_is_unpickled(path, tmp_path):
  marker = tmp_path / "executed"
  np.savez(path, x=np.array([Exploit(marker)], dtype=object))
  with pytest.raises(UserError, match="without Python objects"):
    features.load(path)
  path.write_bytes(pickle.dumps(Exploit(marker)))
  with pytest.raises(UserError, match=r"not an \.npz file"):
    features.load(path)
  assert not marker.exists()


@pytest.mark.parametrize(
  ("array", "message"),
  [
    (np.zeros((3, 4, 5)), "flatten it"),
    (np.float32(3), "flatten it"),
    (np.zeros((9, 2), complex), "real numbers"),
    (np.array(["a", "b"]), "real numbers"),
  ],
)
def test_other_arrays_are_refused(path, array, message):
  np.savez(path, x=array)
  with pytest.raises(UserError, match=message):
    features.load(path, "x")


def test_missing_and_damaged_files_are_named(path, tmp_path):
  with pytest.raises(UserError, match=r"Cannot read .*features\.npz"):
    features.load(path)
  with pytest.raises(UserError, match="Cannot read"):
    features.load(tmp_path)
  np.savez(path, x=np.random.default_rng(0).random((100, 100)))
  content = bytearray(path.read_bytes())
  content[5000:5100] = bytes(100)
  path.write_bytes(content)
  with pytest.raises(UserError, match="cannot be read"):
    features.load(path)
