"""A single process, and the variables of launchers; see test_pod.py for several processes."""

import importlib.util
import socket

import jax
import pytest

from miue_jax.machine import processes
from miue_jax.settings.errors import UserError

SLURM = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
PLAIN = {"TPU_SKIP_MDS_QUERY": "1"}  # set by jax on machines without a TPU
JAX = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@pytest.mark.parametrize(
  ("environment", "expected"),
  [
    ({}, False),
    ({"JAX_COORDINATOR_ADDRESS": "a:1"}, True),
    (SLURM | {"SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "node[1-2]"}, True),
    (SLURM | {"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "node1"}, False),
    (SLURM | {"SLURM_NTASKS": "2"}, False),  # a batch script outside of srun
    ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"}, True),
    ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, False),
    ({"TPU_WORKER_HOSTNAMES": "host-0,host-1", "TPU_WORKER_ID": "1"}, True),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ({"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "2"}, True),
  ],
)
def test_launchers_announce_several_processes(environment, expected):
  assert processes.announced(PLAIN | environment) is expected


@pytest.mark.parametrize("installed", [True, False])
def test_a_tpu_machine_is_asked_how_many_hosts_there_are(monkeypatch, installed):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
  assert processes.announced({}) is installed
  assert not processes.announced(PLAIN)


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_a_single_process_connects_to_none(monkeypatch, mode):
  for name in JAX:
    monkeypatch.delenv(name, raising=False)
  if mode == "off":
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "nowhere.invalid:1")
  monkeypatch.setattr(jax.distributed, "initialize", None)
  with processes.together(mode, 1):
    assert (processes.count(), processes.is_lead()) == (1, True)
    assert processes.from_lead(lambda: {"not": object}) == {"not": object}
    processes.require_same({"seed": 3}, "start again")


def test_an_error_of_a_single_process_is_raised():
  with pytest.raises(UserError, match="mine"), processes.together("off", 1):
    raise UserError("mine")


@pytest.mark.parametrize(
  ("values", "words"),
  [
    (("a:1",), "JAX_NUM_PROCESSES and JAX_PROCESS_ID are not"),
    (("a:1", "2"), "JAX_PROCESS_ID is not"),
    (("a:1", "two", "0"), "'two'"),
    ((None, "2", "0"), "JAX_COORDINATOR_ADDRESS is not"),
    ((None, None, "0"), "JAX_PROCESS_ID is set but .*JAX_NUM_PROCESSES are not"),
  ],
)
def test_incomplete_variables_are_an_error(monkeypatch, values, words):
  for name in JAX:
    monkeypatch.delenv(name, raising=False)
  for name, value in zip(JAX, values, strict=False):
    if value is not None:
      monkeypatch.setenv(name, value)
  monkeypatch.setattr(jax.distributed, "initialize", None)
  with pytest.raises(UserError, match=words), processes.together("auto", 1):
    pass


def test_a_taken_port_is_an_error_before_jax_opens_it(monkeypatch):
  with socket.create_server(("127.0.0.1", 0)) as taken:
    port = taken.getsockname()[1]
    for name, value in zip(JAX, (f"127.0.0.1:{port}", "2", "0"), strict=True):
      monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax.distributed, "initialize", None)
    words = f"open port {port} .*free port"
    with pytest.raises(UserError, match=words), processes.together("auto", 1):
      pass
