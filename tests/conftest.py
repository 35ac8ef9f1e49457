"""Sets up all tests: several CPU devices, strict ranks, parallel workers, shared fixtures."""

import contextlib
import os
import signal
import tempfile
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
# Many tests compile the same steps: this cache, which workers and programs of the tests inherit,
# compiles each once. A size that is never reached makes jax lock the cache.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  _CACHE = tempfile.TemporaryDirectory(prefix="miue-jax-tests-")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(8 * 2**30))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import hypothesis
import jax
import numpy as np
import pytest

from miue_jax.machine import meshes, prng, signals
from miue_jax.machine.meshes import AXIS
from miue_jax.machine.progress import Progress
from miue_jax.transforms import Targets

jax.config.update("jax_numpy_rank_promotion", "raise")

# A busy machine is slow, which is not a failure.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

# Programs that the tests signal inherit ignored signals (`nohup pytest &`), and a shell cannot trap
# a signal that was ignored when it started.
for _signum, _handler in {
  signal.SIGHUP: signal.SIG_DFL,
  signal.SIGINT: signal.default_int_handler,
}.items():
  if signal.getsignal(_signum) == signal.SIG_IGN:
    signal.signal(_signum, _handler)


def pytest_xdist_auto_num_workers(config):
  """Returns the workers of `--numprocesses=auto`: one for each core, none for a single file.

  Tests mostly wait for compilers, which use one core each. For a single file the start of workers
  takes longer than it saves, and its output would come late.
  """
  files = {argument.partition("::")[0] for argument in config.args}
  if len(files) == 1 and files.pop().endswith(".py"):
    return 0
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
  return min(cores, 8)


@pytest.fixture(autouse=True)
def own_mesh():
  """Removes the mesh that a test sets, so that no other test runs on it."""
  with jax.set_mesh(None):
    yield


@pytest.fixture
def use_devices():
  """Returns `use(n)`, which sets a mesh over n CPU devices until the test ends."""
  return lambda count: meshes.start(count, ())


@pytest.fixture
def quick_compiler():
  """Turns off most optimisations, for programs that take longer to compile than to run."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def reporter():
  """Returns `reporter(stop_at)`, a silent `Reporter` that sends SIGTERM after step `stop_at`."""

  def make(stop_at=None):
    progress = mock.create_autospec(Progress, instance=True)
    progress.tick.side_effect = lambda step: (
      os.kill(os.getpid(), signal.SIGTERM) if step == stop_at else None
    )
    return lambda name, steps, epochs, start: progress

  return make


@pytest.fixture
def no_transfers(monkeypatch):
  """Makes every implicit transfer inside an epoch loop an error."""
  stop_on_signal = signals.stop_on_signal

  @contextlib.contextmanager
  def guarded():
    with stop_on_signal(), jax.transfer_guard("disallow"):
      with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        jax.numpy.add(np.ones(3), 1)  # the guard works
      yield

  monkeypatch.setattr(signals, "stop_on_signal", guarded)


@pytest.fixture
def compilations():
  """Returns a list that grows by the seconds of each compilation."""
  seen = []

  def listen(event, seconds, **details):
    if event == "/jax/core/compile/backend_compile_duration":
      seen.append(seconds)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield seen
  jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture
def epoch_reporter(compilations):
  """Returns a silent `Reporter` and the number of compilations when each epoch was reported."""
  at_epoch = []
  progress = mock.create_autospec(Progress, instance=True)
  progress.report.side_effect = lambda step, epoch, scalars: at_epoch.append(len(compilations))
  return lambda name, steps, epochs, start: progress, at_epoch


@pytest.fixture(scope="session")
def batch():
  """Returns keys, images and labels of one global batch, for hooks."""
  rng = np.random.default_rng(0)
  images = rng.random((8, 12, 10, 3), np.float32)
  keys = prng.example_keys(jax.random.key(0), jax.numpy.arange(8))
  return keys, images, rng.integers(0, 4, 8, np.int32)


@pytest.fixture
def augmented(use_devices, quick_compiler):
  """Returns `augmented(augment, keys, images, labels, devices)`, which calls a hook as a step does.

  The result is images, and soft labels of four classes, as NumPy arrays.
  """

  def run(augment, keys, images, labels, devices=1):
    use_devices(devices)

    def local(keys, images, labels):
      return augment(keys, images, Targets.hard(labels))

    data = jax.P(AXIS)
    sharded = jax.shard_map(local, in_specs=(data, data, data), out_specs=data)
    images, targets = jax.jit(sharded)(keys, images, labels)
    soft = np.asarray(targets.weights)[..., None] * np.eye(4)[np.asarray(targets.labels)]
    return np.asarray(images), soft.sum(axis=1)

  return run
