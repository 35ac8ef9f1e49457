"""Devices, random streams, the two ways to drive a step, and signals."""

import itertools
import os
import signal
import types
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.machine import loops, meshes, prng, sharding, signals
from miue_jax.settings.errors import UserError


def bits(key):
  return tuple(np.asarray(jax.random.key_data(key)).tolist())


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


def test_more_devices_than_there_are_is_an_error():
  offered = len(jax.devices())
  with pytest.raises(UserError, match=rf"devices={offered + 1} but this machine offers {offered} "):
    meshes.start(offered + 1, (1,))


def test_a_batch_that_devices_do_not_divide_is_an_error():
  with pytest.raises(UserError, match=r"\[6, 8\] must be divisible by the 4 devices"):
    meshes.start(4, (8, 6, 8))


def test_shard_spreads_rows_and_replicate_copies(use_devices):
  use_devices(4)
  rows = np.arange(8).reshape(8, 1)
  pieces = sharding.shard({"x": rows})["x"].addressable_shards
  assert [np.ravel(piece.data).tolist() for piece in pieces] == [[0, 1], [2, 3], [4, 5], [6, 7]]
  copies = sharding.replicate(rows).addressable_shards
  assert len(copies) == 4
  assert all((np.asarray(copy.data) == rows).all() for copy in copies)


def test_streams_differ_by_seed_name_number_and_order():
  paths = [(), ("fit",), ("fit", 0), ("fit", 1), ("delta", 0), (0, "fit"), ("fit", 0, 0)]
  keys = {bits(prng.stream(seed, *path)) for seed in (0, 1) for path in paths}
  assert len(keys) == 2 * len(paths)
  assert bits(prng.stream(3, "fit", 2)) == bits(prng.stream(3, "fit", 2))


def test_a_stream_is_folded_in_by_the_crc_of_its_name():
  expected = jax.random.fold_in(jax.random.key(7), zlib.crc32(b"source"))
  assert bits(prng.stream(7, "source")) == bits(expected)


def test_streams_are_uncorrelated():
  names = ("weights", "fit", "source", "delta")
  draws = np.array([jax.random.normal(prng.stream(0, name), 10_000) for name in names])
  for one, other in itertools.combinations(draws, 2):
    assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(10_000)


def test_an_example_has_its_key_wherever_it_lies():
  key, ids = jax.random.key(0), jnp.array([5, 0, 3, 3])
  keys = prng.example_keys(key, ids)
  for row, example in enumerate(ids):
    assert bits(keys[row]) == bits(jax.random.fold_in(key, example))


def drive(step, carry, constants, start, stop, *, platform, tick=lambda index: None):
  """Runs `step` as it would be driven on `platform`; the devices stay CPUs."""
  device = types.SimpleNamespace(platform=platform)
  mesh = types.SimpleNamespace(devices=np.array([device]))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax.sharding, "get_mesh", lambda: mesh)
    run = loops.repeated(step)
  return run(carry, constants, start, stop, tick)


def dense_step(carry, constants, index):
  """A sharded SGD step of least squares that draws by index."""

  def local(carry, constants, index):
    weights, loss = carry
    x, key = constants
    noise = jax.random.normal(jax.random.fold_in(key, index), (5,))

    def loss_of(weights):
      return jax.lax.pmean(jnp.mean((x @ weights - noise.sum()) ** 2), "data")

    value, gradient = jax.value_and_grad(loss_of)(weights)
    return weights - 0.1 * gradient, loss + value

  data, every = jax.P("data"), jax.P()
  sharded = jax.shard_map(local, in_specs=(every, (data, every), every), out_specs=every)
  return sharded(carry, constants, index)


@pytest.mark.parametrize("devices", [1, 2])
def test_both_drivers_give_the_same_result(use_devices, monkeypatch, devices):
  use_devices(devices)
  monkeypatch.setattr(loops, "_CHUNK", 4)
  x = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
  results, ticks = {}, {}
  for backend in ("cpu", "gpu"):
    ticks[backend] = []
    carry = sharding.replicate((jnp.zeros(5), jnp.float32(0)))
    constants = (sharding.shard(x), sharding.replicate(jax.random.key(1)))
    results[backend], reached = drive(
      dense_step, carry, constants, 2, 13, platform=backend, tick=ticks[backend].append
    )
    assert reached == 13
  assert ticks == {"cpu": list(range(3, 14)), "gpu": [6, 10, 13]}
  for one, other in zip(*results.values(), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-6)
  # An oracle for both: the same recursion in NumPy.
  weights, loss = np.zeros(5), 0.0
  for index in range(2, 13):
    key = jax.random.fold_in(jax.random.key(1), index)
    residual = x @ weights - float(jax.random.normal(key, (5,)).sum())
    loss += np.mean(residual**2)
    weights = weights - 0.1 * 2 * x.T @ residual / len(x)
  np.testing.assert_allclose(results["cpu"][0], weights, rtol=1e-4)
  np.testing.assert_allclose(results["cpu"][1], loss, rtol=1e-4)


@pytest.mark.parametrize(("platform", "reached"), [("cpu", 5), ("gpu", 8)])
def test_a_signal_stops_either_driver_between_dispatches(
  use_devices, monkeypatch, platform, reached
):
  use_devices(1)
  monkeypatch.setattr(loops, "_CHUNK", 4)

  def tick(index):
    if index >= 5 and signals.received() is None:
      os.kill(os.getpid(), signal.SIGTERM)

  def count():
    with signals.stop_on_signal():
      result = drive(lambda n, _, i: n + 1, jnp.int32(0), None, 0, 20, platform=platform, tick=tick)
      assert result == (reached, reached)
      assert signals.received() == signal.SIGTERM

  # Whoever is inside may leave in its own way; if it does not, the signal is not lost.
  with pytest.raises(signals.Interrupted, match="SIGTERM") as stop:
    count()
  assert stop.value.signum == signal.SIGTERM
  assert signals.received() is None


def test_an_empty_range_runs_nothing(use_devices):
  use_devices(1)
  carry, reached = loops.repeated(lambda n, _, i: n + 1)(jnp.int32(3), None, 4, 4)
  assert (carry, reached) == (3, 4)


@pytest.fixture(params=[signal.SIGTERM, signal.SIGINT])
def handled(request):
  """A signal, its handler, and the list of what the handler saw."""
  seen = []

  def handler(signum, frame):
    seen.append(signum)

  before = signal.signal(request.param, handler)
  yield request.param, handler, seen
  signal.signal(request.param, before)


def test_the_first_signal_is_remembered_and_the_second_acts(handled):
  signum, handler, seen = handled

  def interrupted():
    with signals.stop_on_signal():
      os.kill(os.getpid(), signum)
      assert (signals.received(), seen) == (signum, [])
      os.kill(os.getpid(), signum)
      assert seen == [signum]

  with pytest.raises(signals.Interrupted):
    interrupted()
  assert signal.getsignal(signum) is handler


def test_handlers_come_back_after_success_and_after_an_error(handled):
  signum, handler, _ = handled
  with signals.stop_on_signal():
    assert signal.getsignal(signum) is not handler
    assert signals.received() is None
  assert signal.getsignal(signum) is handler
  with pytest.raises(KeyError), signals.stop_on_signal():
    raise KeyError
  assert signal.getsignal(signum) is handler
