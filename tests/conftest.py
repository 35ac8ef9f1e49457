"""Test-wide settings: several CPU devices, strict ranks, no device needed."""

import os
import signal
import tempfile
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")

import jax
import pytest

from miue_jax import runtime
from miue_jax.progress import Progress

jax.config.update("jax_numpy_rank_promotion", "raise")

# Tests that interrupt and resume compile the same step again and again: once is enough.
_CACHE = tempfile.TemporaryDirectory(prefix="miue-jax-tests-")
jax.config.update("jax_compilation_cache_dir", _CACHE.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture
def use_devices():
  """Returns `use(n)`, which makes a mesh over n CPU devices the program's until the test ends."""
  with jax.set_mesh(None):
    yield lambda count: runtime.start(count, ())


@pytest.fixture
def reporter():
  """Returns `reporter(stop_at)`: a quiet `Reporter` that sends SIGTERM after step `stop_at`."""

  def make(stop_at=None):
    progress = mock.create_autospec(Progress, instance=True)
    progress.tick.side_effect = lambda step: (
      os.kill(os.getpid(), signal.SIGTERM) if step == stop_at else None
    )
    return lambda name, steps, epochs, start: progress

  return make
