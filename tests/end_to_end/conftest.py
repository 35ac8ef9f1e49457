"""The program as a user starts it, in a process of its own."""

import dataclasses
import json
import multiprocessing
import os
import pathlib
import shutil
import subprocess
import sys

import filelock
import pytest
from program import ROOT, TINY, Fork, Result, ended, meeting


@pytest.fixture(scope="session")
def environment():
  """A user's environment, except that what one process compiled the next one need not."""
  return {key: value for key, value in os.environ.items() if key != "JAX_NUM_CPU_DEVICES"}


@pytest.fixture(scope="session")
def started():
  """Returns a list of processes that are killed when the session ends."""
  processes = []
  yield processes
  for process in processes:
    if process.poll() is None:
      process.kill()
      process.communicate()


@pytest.fixture(scope="session")
def start(environment, started):
  """`start(*flags, **variables)` starts `python -m miue_jax.main` in the root of the checkout."""

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

  return start


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
  context.set_forkserver_preload(
    ["program", "miue_jax.main", "miue_jax.experiment.compare", "miue_jax.plan.plan"]
  )
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


@pytest.fixture(scope="session")
def start_fork(server, started, tmp_path_factory):
  """`start_fork(*flags, **variables)` is `start` without the seconds for imports.

  The program runs in `folder`, by default an empty one of its own, and on four devices if
  `JAX_NUM_CPU_DEVICES` is not among the variables.
  """

  def start(*flags, folder=None, **variables):
    place = folder or tmp_path_factory.mktemp("process")
    started.append(Fork(server, flags, place, variables))
    return started[-1]

  return start


@pytest.fixture(scope="session")
def fork(start_fork):
  """`fork(*flags)` starts a fork and waits for it."""
  return lambda *flags: ended(start_fork(*flags))


@pytest.fixture(scope="session")
def fork_pod(start_fork):
  """`fork_pod(*flags)` starts one connected fork for each tuple of flags and waits for all.

  None stands for a process that does not come. Each runs in the folder given for it.
  """

  def run(*flags, folders=None):
    processes = [
      start_fork(*given, folder=folder, **variables)
      for given, folder, variables in zip(
        flags, folders or [None] * len(flags), meeting(len(flags)), strict=True
      )
      if given is not None
    ]
    return [ended(process) for process in processes]

  return run


@pytest.fixture(scope="session")
def start_pod(start_fork):
  """`start_pod(processes, devices, *flags)` starts connected forks, each with `devices`."""

  def pod(processes, devices, *flags):
    return [
      start_fork(*flags, JAX_NUM_CPU_DEVICES=str(devices), **variables)
      for variables in meeting(processes)
    ]

  return pod


@pytest.fixture(scope="session")
def finished(run, tmp_path_factory, worker_id):
  """The workdir of a whole tiny run, and how the run ended; copy it before changing it.

  Parallel workers share it: the first one that needs it makes it, the others wait.
  """
  folder = tmp_path_factory.getbasetemp()
  if worker_id != "master":
    folder = folder.parent
  workdir, ending = folder / "finished" / "run", folder / "finished.json"
  with filelock.FileLock(folder / "finished.lock"):
    if not ending.exists():
      ending.write_text(json.dumps(dataclasses.asdict(run(*TINY, f"--workdir={workdir}"))))
    return workdir, Result(**json.loads(ending.read_text()))


@pytest.fixture
def workdir(finished, tmp_path):
  """Returns a copy of a finished workdir."""
  return shutil.copytree(finished[0], tmp_path / "run")
