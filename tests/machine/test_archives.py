"""Arrays of files that are not trusted; end_to_end/test_untrusted_files.py has more of them."""

import contextlib
import pickle
import zipfile

import numpy as np
import pytest

from miue_jax.machine import archives
from miue_jax.settings.errors import UserError


class Trap:
  """Fails the test if it is ever unpickled."""

  def __reduce__(self):
    return (pytest.fail, ("unpickled",))


OBJECTS = np.array([Trap()], object)


def test_an_archive_lists_all_arrays_and_reads_only_those_asked_for(tmp_path):
  path = tmp_path / "x.npz"
  np.savez(path, b=np.arange(3), a=OBJECTS)
  archive = archives.Archive(path)
  assert str(archive) == "a, b"
  assert "a" in archive
  assert "c" not in archive
  assert len(archive) == 2
  np.testing.assert_array_equal(archive["b"], np.arange(3))
  with pytest.raises(KeyError):
    archive["c"]
  with pytest.raises(UserError, match=r"x\.npz cannot be read \(.*\): write it with numpy\.savez"):
    archive["a"]


def test_an_empty_archive_holds_nothing(tmp_path):
  np.savez(tmp_path / "x.npz")
  assert str(archives.Archive(tmp_path / "x.npz")) == "nothing"


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps(Trap()), b"PK\x03\x04 broken"])
def test_a_file_that_is_not_an_archive_is_named(tmp_path, content):
  (tmp_path / "x.npz").write_bytes(content)
  with pytest.raises(UserError, match=r"x\.npz is not an \.npz file: make it again\."):
    archives.Archive(tmp_path / "x.npz", "make it again")


def test_a_damaged_archive_never_gives_other_arrays(tmp_path):
  path = tmp_path / "x.npz"
  array = np.random.default_rng(0).integers(0, 256, 64, np.uint8)
  np.savez(path, x=array)
  content = path.read_bytes()
  for position in range(len(content)):
    damaged = bytearray(content)
    damaged[position] ^= 0xFF
    path.write_bytes(damaged)
    with contextlib.suppress(UserError, KeyError):
      np.testing.assert_array_equal(archives.Archive(path)["x"], array)


def test_a_member_that_is_not_an_array_is_named(tmp_path):
  with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
    archive.writestr("x.npy", b"not an array")
  with pytest.raises(UserError, match="x is not an array"):
    archives.Archive(tmp_path / "x.npz")["x"]


def test_an_array_is_read_without_pickle(tmp_path):
  array = np.asfortranarray(np.arange(6).reshape(2, 3))
  np.save(tmp_path / "x.npy", array)
  found = archives.read_npy(tmp_path / "x.npy", "make it again")
  np.testing.assert_array_equal(found, array)
  assert found.flags.c_contiguous
  np.save(tmp_path / "x.npy", OBJECTS, allow_pickle=True)
  with pytest.raises(UserError, match=r"x\.npy cannot be read \(.*\): make it again\."):
    archives.read_npy(tmp_path / "x.npy", "make it again")
