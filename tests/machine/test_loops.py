"""The two ways to repeat a step."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.machine import cpu, loops, sharding, signals


def drive(step, carry, constants, start, stop, *, platform, tick=lambda index: None):
  """Runs `step` as on `platform`; the devices remain CPUs."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(cpu, "in_use", lambda: platform == "cpu")
    run = loops.repeated(step)
  return run(carry, constants, start, stop, tick)


def dense_step(carry, constants, index):
  """Takes a sharded SGD step of least squares, with noise drawn by index."""

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


@pytest.mark.slow
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
  # The same recursion in NumPy is an oracle for both.
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

  # The block may raise another exception. If it does not, the signal is not lost.
  with pytest.raises(signals.Interrupted, match="SIGTERM") as stop:
    count()
  assert stop.value.signum == signal.SIGTERM
  assert signals.received() is None


def test_an_empty_range_runs_nothing(use_devices):
  use_devices(1)
  carry, reached = loops.repeated(lambda n, _, i: n + 1)(jnp.int32(3), None, 4, 4)
  assert (carry, reached) == (3, 4)
