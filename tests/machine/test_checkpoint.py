"""Checkpoints: the same bytes on any number of devices, and reports of damage."""

import gc
import pathlib
import subprocess
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.machine import sharding
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.settings.errors import UserError


def make_tree(fill):
  """Makes a state like those of the stages: replicated and sharded arrays, an empty part."""
  rng = np.random.default_rng(fill)
  return {
    "params": sharding.replicate(jnp.array(rng.standard_normal((3, 2)), jnp.float32)),
    "delta": sharding.shard(rng.standard_normal((8, 2)).astype(np.float32)),
    "count": sharding.replicate(jnp.int32(fill)),
    "stats": {},
  }


def assert_same(tree, expected):
  assert jax.tree.structure(tree) == jax.tree.structure(expected)
  for one, other in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
    assert one.dtype == other.dtype
    assert one.sharding.is_equivalent_to(other.sharding, one.ndim)
    assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_restore_returns_none_if_nothing_is_saved(tmp_path, use_devices):
  use_devices(1)
  assert Checkpoints(tmp_path / "states").restore(make_tree(0)) is None
  assert not (tmp_path / "states").exists()


def test_without_a_folder_nothing_is_kept(tmp_path, use_devices, monkeypatch):
  use_devices(1)
  monkeypatch.chdir(tmp_path)
  states = Checkpoints(None)
  states.save(1, make_tree(0))
  assert states.restore(make_tree(0)) is None
  states.delete()
  assert list(tmp_path.iterdir()) == []


def test_the_newest_state_comes_back_and_two_are_kept(tmp_path, use_devices):
  use_devices(2)
  states = Checkpoints(tmp_path / "deep" / "states")
  for position in (3, 7, 12):
    states.save(position, make_tree(position))
  position, tree = Checkpoints(tmp_path / "deep" / "states").restore(make_tree(0))
  assert position == 12
  assert_same(tree, make_tree(12))
  assert len(list((tmp_path / "deep" / "states").iterdir())) == 2


def test_a_saved_position_is_not_saved_again(tmp_path, use_devices):
  use_devices(1)
  states = Checkpoints(tmp_path)
  states.save(3, make_tree(1))
  states.save(3, make_tree(2))
  assert_same(states.restore(make_tree(0))[1], make_tree(1))


@pytest.mark.parametrize(("before", "after"), [(4, 2), (1, 4)])
def test_a_state_can_move_to_another_number_of_devices(tmp_path, use_devices, before, after):
  use_devices(before)
  Checkpoints(tmp_path).save(5, make_tree(1))
  use_devices(after)
  assert_same(Checkpoints(tmp_path).restore(make_tree(0))[1], make_tree(1))


def test_delete_removes_all_states(tmp_path, use_devices):
  use_devices(1)
  states = Checkpoints(tmp_path / "states")
  states.save(1, make_tree(0))
  states.delete()
  states.delete()
  assert states.restore(make_tree(0)) is None


@pytest.fixture
def unheard():
  """Collects the reads that Orbax abandons at the first error: each prints a message."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    yield
    gc.collect()


def cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [cut, pathlib.Path.unlink])
def test_a_damaged_state_is_an_error(tmp_path, use_devices, unheard, damage):
  use_devices(1)
  states = Checkpoints(tmp_path / "states")
  states.save(1, make_tree(0))
  data = [path for path in tmp_path.rglob("*") if path.is_file() and "/d/" in str(path)]
  assert data
  for path in data:
    damage(path)
  with pytest.raises(UserError, match=r"checkpoint in .*states is damaged .*delete that folder"):
    states.restore(make_tree(0))


def test_a_state_of_other_shapes_is_an_error(tmp_path, use_devices, unheard):
  use_devices(1)
  states = Checkpoints(tmp_path)
  states.save(1, make_tree(0))
  other = make_tree(0) | {"params": sharding.replicate(jnp.zeros((3, 5)))}
  with pytest.raises(UserError, match="delete that folder"):
    states.restore(other)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path, use_devices):
  use_devices(1)
  (tmp_path / "file").write_text("in the way")
  with pytest.raises(UserError, match=r"Cannot save a checkpoint in .*file"):
    Checkpoints(tmp_path / "file" / "states").save(1, make_tree(0))


_SAVER = """
import itertools, pathlib, sys
import jax.numpy as jnp
from miue_jax.machine import meshes, sharding
from miue_jax.machine.checkpoint import Checkpoints
meshes.start(1, ())
states = Checkpoints(pathlib.Path(sys.argv[1]))
for position in itertools.count(1):
  states.save(position, {"x": sharding.replicate(jnp.full((64, 64), float(position)))})
  print(position, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.05])
def test_a_kill_leaves_a_whole_state(tmp_path, use_devices, delay):
  use_devices(1)
  saver = subprocess.Popen(
    [sys.executable, "-c", _SAVER, str(tmp_path / "states")], stdout=subprocess.PIPE, text=True
  )
  try:
    for _ in range(3):
      reached = int(saver.stdout.readline())
    time.sleep(delay)
  finally:
    saver.kill()
    saver.wait()
    saver.stdout.close()
  like = {"x": sharding.replicate(jnp.zeros((64, 64)))}
  position, tree = Checkpoints(tmp_path / "states").restore(like)
  assert position >= reached
  assert (np.asarray(tree["x"]) == position).all()
