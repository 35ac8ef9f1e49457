"""Odd surroundings: the program works, or says in one sentence why it cannot."""

import os
import subprocess
import sys

import pytest
from program import ROOT, TINY, Result, ended

GENERATE = (*TINY, "--mode=generate", "--config.method.epochs=1")


@pytest.fixture
def real(environment, tmp_path):
  """Returns `real(*flags, before, **variables)`, which runs the program in a shell."""

  def run(*flags, before="", program="-m miue_jax.main", **variables):
    command = f'{before} exec {sys.executable} {program} "$@"'
    process = subprocess.run(
      ["bash", "-c", command, "bash", *map(str, flags)],
      cwd=tmp_path,
      env=environment | {"PYTHONPATH": str(ROOT)} | variables,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      timeout=300,
    )
    return Result(process.returncode, process.stdout, process.stderr)

  return run


def test_variables_that_mean_nothing(real):
  assert "SLURM_NTASKS" in real(*GENERATE, SLURM_NTASKS="abc").sentence()


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", pytest.param("bogus", marks=pytest.mark.long)])
def test_a_platform_that_is_not_there(real, platform):
  sentence = real(*GENERATE, JAX_PLATFORMS=platform).sentence()
  assert f"JAX_PLATFORMS ({platform})" in sentence


@pytest.mark.long
def test_flags_that_xla_does_not_know(real):
  assert "XLA_FLAGS (--bogus=1)" in real(*GENERATE, XLA_FLAGS="--bogus=1").sentence()


def test_few_files(real):
  assert "ulimit -n" in real(*GENERATE, before="ulimit -n 10;").sentence()


@pytest.mark.long
def test_an_interactive_slurm_step(real):
  step = {
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "2",
    "SLURM_JOB_ID": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
  }
  result = real(*GENERATE, "--distributed_timeout=5", **step)
  assert result.code == 2
  assert "--distributed=off" in result.err
  assert real(*GENERATE, "--distributed=off", **step).code == 0


@pytest.mark.long
def test_variables_that_change_nothing(real, finished, tmp_path):
  variables = {
    "JAX_ENABLE_X64": "1",
    "JAX_TRANSFER_GUARD": "disallow",
    "MPLBACKEND": "bogus",
    "PYTHONWARNINGS": "error",
    "PYTHONIOENCODING": "ascii",
  }
  flags = [
    *TINY,
    "--config.measure.estimators=('histogram', 'knn')",
    f"--workdir={tmp_path / 'run'}",
  ]
  result = real(*flags, **variables)
  assert result.code == 0, result
  delta = (tmp_path / "run" / "poison" / "delta.npy").read_bytes()
  assert delta == (finished[0] / "poison" / "delta.npy").read_bytes()


@pytest.mark.long
def test_a_file_system_without_locks_that_syncs_no_folders(real, tmp_path):
  program = tmp_path / "program.py"
  program.write_text(
    """
import errno, fcntl, os, stat, sys
real = os.fsync
def refuse(*_): raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
def no_folders(fd):
  if stat.S_ISDIR(os.fstat(fd).st_mode): raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
  return real(fd)
fcntl.flock = fcntl.lockf = refuse
os.fsync = no_folders
from miue_jax import main
main.console()
"""
  )
  for mode in ("run", "export", "restore", "run"):
    result = real(*TINY, f"--workdir={tmp_path / 'run'}", f"--mode={mode}", program=str(program))
    assert result.code == 0, (mode, result)


@pytest.mark.parametrize("name", ["gs://bucket/x", "~/x", os.fsdecode(b"\xff")])
def test_workdirs_that_mean_something_else(start_fork, tmp_path, name):
  folder = tmp_path / "place"
  folder.mkdir()
  result = ended(start_fork(*TINY, f"--workdir={name}", folder=folder))
  assert "--workdir=" in result.sentence()
  assert list(folder.iterdir()) == []
