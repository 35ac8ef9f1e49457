"""Variables and limits that would stop jax without a sentence."""

import resource
import subprocess
import sys

import pytest

from miue_jax.machine import surroundings
from miue_jax.settings.errors import UserError


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("JAX_NUM_CPU_DEVICES", "abc"),
    ("JAX_NUM_CPU_DEVICES", "0"),
    ("JAX_NUM_CPU_DEVICES", ""),
    ("JAX_NUM_CPU_DEVICES", "-1"),
    ("JAX_NUM_CPU_DEVICES", "9999999"),
    ("SLURM_NTASKS", "abc"),
    ("OMPI_COMM_WORLD_SIZE", "1.5"),
    ("MEGASCALE_NUM_SLICES", "two"),
    ("JAX_COORDINATOR_ADDRESS", ""),
    ("JAX_COORDINATOR_ADDRESS", "host"),
    ("JAX_COORDINATOR_ADDRESS", "host:port"),
    ("JAX_COORDINATOR_ADDRESS", "host:0"),
    ("JAX_COORDINATOR_ADDRESS", "host:70000"),
    ("JAX_COORDINATOR_ADDRESS", "a b:80"),
  ],
)
def test_a_variable_that_means_nothing_is_named(monkeypatch, name, value):
  monkeypatch.setenv(name, value)
  with pytest.raises(UserError) as error:
    surroundings.check()
  assert f"{name} is {value!r}; set it to " in str(error.value)
  assert "\n" not in str(error.value)


def test_all_problems_are_named_at_once(monkeypatch):
  monkeypatch.setenv("SLURM_NTASKS", "x")
  monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "y")
  with pytest.raises(UserError, match=r"SLURM_NTASKS.*; JAX_COORDINATOR_ADDRESS"):
    surroundings.check()


@pytest.mark.parametrize("address", ["host:1234", "10.0.0.1:1", "[::1]:80", "a-b.c_d:65535"])
def test_what_is_fine_passes(monkeypatch, address):
  monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", address)
  monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")
  monkeypatch.setenv("SLURM_NTASKS", "4")
  surroundings.check()


def limited(kind, soft, hard):
  """Returns what `check` says in a program with these limits."""
  program = (
    f"import resource\nresource.setrlimit({kind}, ({soft}, {hard}))\n"
    "from miue_jax.machine import surroundings\nsurroundings.check()\n"
    f"print(resource.getrlimit({kind})[0])"
  )
  ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
  return ended.stdout.strip() or ended.stderr.splitlines()[-1]


def test_a_low_limit_of_files_is_raised_or_named():
  assert limited(resource.RLIMIT_NOFILE, 20, 1000) == "64"
  assert "only 20 files may be open; raise the limit to 64" in limited(
    resource.RLIMIT_NOFILE, 20, 20
  )


def test_a_low_limit_of_addresses_is_named():
  assert "only 1024 MB of addresses" in limited(resource.RLIMIT_AS, 1 << 30, 1 << 30)


def test_a_deleted_current_folder_is_named(tmp_path, monkeypatch):
  (gone := tmp_path / "gone").mkdir()
  monkeypatch.chdir(gone)
  gone.rmdir()
  with pytest.raises(UserError, match="the current folder was deleted; change to one that exists"):
    surroundings.check()


def test_prepare_takes_back_what_changes_results():
  program = (
    "import os, warnings\nfrom miue_jax.machine import surroundings\nsurroundings.prepare()\n"
    "warnings.warn('x')\nprint({n: os.environ.get(n) for n in ('JAX_ENABLE_X64', 'MPLBACKEND',"
    " 'JAX_TRANSFER_GUARD', 'JAX_TRANSFER_GUARD_HOST_TO_DEVICE')})"
  )
  variables = {
    "JAX_ENABLE_X64": "1",
    "MPLBACKEND": "bogus",
    "JAX_TRANSFER_GUARD": "disallow",
    "JAX_TRANSFER_GUARD_HOST_TO_DEVICE": "disallow",
    "PYTHONPATH": ":".join(sys.path),
  }
  ended = subprocess.run(
    [sys.executable, "-W", "error", "-c", program], env=variables, capture_output=True, text=True
  )
  assert "UserWarning: x" in ended.stderr, ended
  assert "'MPLBACKEND': 'agg'" in ended.stdout
  assert ended.stdout.count("None") == 3
