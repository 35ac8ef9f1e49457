"""Choice of devices, and the mesh over them."""

import os
from unittest import mock

import jax
import pytest

from miue_jax.machine import meshes
from miue_jax.settings.errors import UserError


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_start_makes_one_axis_over_the_devices_asked_for(count):
  mesh = meshes.start(count, (16, 8))
  assert mesh.shape == {"data": count}
  assert list(mesh.devices) == jax.devices()[:count]
  assert jax.sharding.get_mesh() == mesh


@pytest.mark.parametrize(("sizes", "cores", "count"), [((8, 4), 3, 2), ((9,), 4, 3), ((7,), 4, 1)])
def test_start_takes_as_many_cores_as_divide_every_batch(monkeypatch, sizes, cores, count):
  monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
  assert meshes.start(0, sizes).size == count


def test_start_offers_devices_of_a_cpu_beyond_those_of_the_environment(monkeypatch):
  monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")
  asked = mock.Mock()
  monkeypatch.setattr(jax.config, "update", asked)
  for offered in (16, 2, 0):
    assert meshes.start(1, (4,), offered).size == 1
  assert asked.call_args_list == [mock.call("jax_num_cpu_devices", n) for n in (16, 8, 8)]


def test_more_devices_than_there_are_is_an_error():
  offered = len(jax.devices())
  with pytest.raises(UserError, match=rf"devices={offered + 1} but this machine offers {offered} "):
    meshes.start(offered + 1, (1,))


def test_a_batch_that_devices_do_not_divide_is_an_error():
  with pytest.raises(UserError, match=r"\[6, 8\] must be divisible by the 4 devices"):
    meshes.start(4, (8, 6, 8))


def test_make_changes_neither_the_mesh_nor_the_configuration():
  before = jax.config.values.copy()
  mesh = meshes.make(2, (4,))
  assert mesh.shape == {"data": 2}
  assert jax.sharding.get_mesh().empty
  assert jax.config.values == before
  with jax.set_mesh(mesh):
    assert jax.sharding.get_mesh() == mesh
  assert jax.sharding.get_mesh().empty
