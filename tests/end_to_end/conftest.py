"""The program as a user starts it, in a process of its own."""

import multiprocessing
import os
import pathlib
import subprocess
import sys

import pytest
from program import ROOT, TINY, ended, forked, meeting


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
  """A user's environment, except that what one process compiled the next one need not."""
  settings = {
    "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
  }
  inherited = {key: value for key, value in os.environ.items() if key != "JAX_NUM_CPU_DEVICES"}
  return inherited | settings


@pytest.fixture(scope="session")
def start(environment):
  """`start(*flags, **variables)` starts `python -m miue_jax.main` in the root of the checkout."""
  started = []

  def start(*flags, **variables):
    process = subprocess.Popen(
      [sys.executable, "-m", "miue_jax.main", *map(str, flags)],
      cwd=ROOT,
      env=environment | variables,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    started.append(process)
    return process

  yield start
  for process in started:
    if process.poll() is None:
      process.kill()
      process.communicate()


@pytest.fixture(scope="session")
def run(start):
  """`run(*flags)` starts the program and waits for it."""
  return lambda *flags: ended(start(*flags))


@pytest.fixture(scope="session")
def server(environment):
  """A context whose processes are forks of one that has imported everything.

  Imports take seconds and a fork takes none, which is what makes a test of each mistake affordable.
  """
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload(["program", "miue_jax.main", "miue_jax.stages"])
  with pytest.MonkeyPatch.context() as patch:
    for key, value in environment.items():
      patch.setenv(key, value)
    patch.setenv("JAX_NUM_CPU_DEVICES", "4")
    patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # they take longer than they save here
    patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{pathlib.Path(__file__).parent}")
    process = context.Process()  # the first one starts the server, in this environment
    process.start()
    process.join()
  return context


@pytest.fixture
def fork(server, tmp_path_factory):
  """`fork(*flags)` is `run` without the seconds for imports, in an empty folder."""
  return lambda *flags: forked(server, [flags], [tmp_path_factory.mktemp("process")])[0]


@pytest.fixture
def fork_pod(server, tmp_path_factory):
  """`fork_pod(*flags)` forks one connected process for each tuple of flags, None for an absent one.

  Each runs in the folder given, or in an empty one of its own.
  """

  def start(*flags, folders=None):
    present = [number for number, given in enumerate(flags) if given is not None]
    places = folders or [tmp_path_factory.mktemp("process") for _ in flags]
    variables = meeting(len(flags))
    return forked(server, *([of[i] for i in present] for of in (flags, places, variables)))

  return start


@pytest.fixture(scope="session")
def start_pod(start):
  """`start_pod(processes, devices, *flags)` starts connected processes, each with `devices`."""

  def pod(processes, devices, *flags):
    return [
      start(*flags, JAX_NUM_CPU_DEVICES=str(devices), **variables)
      for variables in meeting(processes)
    ]

  return pod


@pytest.fixture(scope="session")
def finished(run, tmp_path_factory):
  """The workdir of a whole tiny run, and how the run ended; copy it before changing it."""
  workdir = tmp_path_factory.mktemp("finished") / "run"
  return workdir, run(*TINY, f"--workdir={workdir}")
