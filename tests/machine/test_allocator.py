"""Memory that the C library keeps, and steps that allocate in small blocks."""

import mmap
import platform
import resource
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.machine import cpu, loops, sharding
from miue_jax.machine.cpu import allocator

on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


@on_glibc
def test_freed_memory_is_kept_for_the_next_step(use_devices):
  use_devices(1)
  size = 2**26
  bytearray(size)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  bytearray(size)
  faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
  assert faults < size / mmap.PAGESIZE / 10  # all pages, where the kernel had them in between


MIB = 2**20
IN_HEAPS = {"xla_multiheap_size_constraint_per_heap": 63 * MIB}


@pytest.fixture
def options_of(monkeypatch):
  """Returns `options_of(step, size)`: compiler options of a step for a carry of `size` bytes."""
  jit = mock.Mock(wraps=jax.jit)
  monkeypatch.setattr(jax, "jit", jit)
  # The functions cache their results, which belong to an earlier test.
  monkeypatch.setattr(allocator, "_heap_options", allocator._heap_options.__wrapped__)

  def options(step, carry):
    allocator.jitted(step, jax.ShapeDtypeStruct((carry,), jnp.uint8))
    return jit.call_args.kwargs.get("compiler_options")

  return options


def local_step(local):
  return jax.shard_map(local, in_specs=jax.P("data"), out_specs=jax.P("data"))


@on_glibc
@pytest.mark.parametrize(("size", "expected"), [(63 * MIB, IN_HEAPS), (63 * MIB + 1, None)])
def test_a_step_allocates_in_heaps_if_every_array_fits(use_devices, options_of, size, expected):
  use_devices(2)
  assert options_of(local_step(lambda x: x + 1), 2 * size) == expected
  inner = jax.checkpoint(lambda x: -jnp.full(size, x[0]))
  assert options_of(local_step(lambda x: x + inner(x)[0]), 2) == expected


@on_glibc
def test_arrays_that_are_updated_in_place_need_not_fit(use_devices, options_of):
  use_devices(2)
  assert options_of(local_step(lambda x: x.at[jnp.array([3, 1])].set(0)), 256 * MIB) == IN_HEAPS
  assert options_of(local_step(lambda x: x.at[2:5].set(0)), 256 * MIB) == IN_HEAPS


@pytest.mark.parametrize("other", ["one device", "backend", "C library", "XLA"])
def test_steps_allocate_as_usual_on_other_systems(use_devices, options_of, monkeypatch, other):
  use_devices(2)
  if other == "one device":
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
  elif other == "backend":
    monkeypatch.setattr(cpu, "in_use", lambda: False)
  elif other == "C library":
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
  else:
    monkeypatch.setattr(allocator, "_HEAP_OPTION", "xla_no_such_option")
  assert options_of(local_step(lambda x: x + 1), 2) is None


@pytest.mark.filterwarnings("ignore:Error writing persistent")  # XLA stores no program of several
def test_heaps_change_no_bit_and_a_step_is_traced_once(use_devices, monkeypatch):
  use_devices(2)
  rng = np.random.default_rng(0)
  x, weights = (rng.standard_normal(shape, np.float32) for shape in ((16, 16), (3, 16, 16)))
  traced = []

  def step(weights, x, index):
    traced.append(index)

    def loss(weights, x):
      for layer in weights:
        x = jnp.tanh(x @ layer)
      return jax.lax.pmean(jnp.mean(x**2), "data")

    data, every = jax.P("data"), jax.P()
    gradient = jax.shard_map(jax.grad(loss), in_specs=(every, data), out_specs=every)
    return weights - 0.1 * gradient(weights, x)

  results = []
  for options in (None, {"xla_multiheap_size_constraint_per_heap": 4096}):  # several heaps
    monkeypatch.setattr(allocator, "_heap_options", lambda options=options: options)
    run = loops.repeated(step)
    carry, _ = run(sharding.replicate(weights), sharding.shard(x), 0, 3)
    carry, _ = run(carry, sharding.shard(x), 3, 5)
    results.append(np.asarray(carry))
  assert len(traced) == 2
  assert results[0].tobytes() == results[1].tobytes()
  assert (results[0] != weights).any()
