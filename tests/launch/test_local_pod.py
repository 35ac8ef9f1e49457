"""Tests local_pod.sh: the environment of its processes, their failures, and signals."""

import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
RANK = "rank = int(os.environ['JAX_PROCESS_ID'])\n"
# Counts signals until half a second after the first one, and leaves as miue_jax does.
PATIENT = RANK + (
  "got = []\n"
  "for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):\n"
  "  signal.signal(number, lambda number, frame: got.append(number))\n"
  "print('ready', flush=True)\n"
  "deadline = time.monotonic() + 20\n"
  "while not got and time.monotonic() < deadline: time.sleep(0.01)\n"
  "deadline = time.monotonic() + 0.5\n"
  "while time.monotonic() < deadline: time.sleep(0.01)\n"
  "print('got', *map(int, got), flush=True)\n"
  "sys.exit(128 + got[0])\n"
)


def lines_of(result, rank):
  prefix = f"[{rank}] "
  return [line.removeprefix(prefix) for line in result.stdout.splitlines() if prefix in line]


def alive(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  # A zombie is dead; some systems do not reap orphans.
  return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def read_until_ready(process, count):
  for _ in range(count):
    assert "ready" in process.stdout.readline()


def test_every_process_learns_its_place(machine):
  machine.fake("python")
  flags = ["--config=configs/digits.py", "--config.evaluate.seeds=(0, 1)", "--workdir=a *b"]
  assert machine.run("local_pod.sh", "3", *flags).returncode == 0

  calls = sorted(machine.calls("python"), key=lambda call: call.env["JAX_PROCESS_ID"])
  assert [call.env["JAX_PROCESS_ID"] for call in calls] == ["0", "1", "2"]
  for call in calls:
    assert call.args == ["-m", "miue_jax.main", *flags]
    assert call.env["JAX_NUM_PROCESSES"] == "3"
    assert call.env["JAX_PLATFORMS"] == "cpu"
    assert call.env["JAX_NUM_CPU_DEVICES"] == "1"
  (address,) = {call.env["JAX_COORDINATOR_ADDRESS"] for call in calls}
  host, port = address.split(":")
  with socket.socket() as server:
    server.bind((host, int(port)))  # it is free


def test_variables(machine):
  machine.fake("interpreter")
  env = {"PYTHON": "interpreter", "JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cuda,cpu"}
  assert machine.run("local_pod.sh", "1", **env).returncode == 0
  (call,) = machine.calls("interpreter")
  assert call.env["JAX_NUM_CPU_DEVICES"] == "4"
  assert call.env["JAX_PLATFORMS"] == "cuda,cpu"


def test_lines_carry_the_number_of_their_process(machine):
  body = RANK + "print(f'out {rank}\\n\\nlast', flush=True)\nsys.stderr.write(f'err {rank}')\n"
  machine.fake("python", body)
  result = machine.run("local_pod.sh", "2")
  for rank in (0, 1):
    assert sorted(lines_of(result, rank)) == sorted([f"out {rank}", "", "last", f"err {rank}"])
  assert len(result.stdout.splitlines()) == 8


@pytest.mark.parametrize(
  ("statuses", "expected"), [((0, 0, 0), 0), ((0, 2, 0), 2), ((5, 0, 0), 5)], ids=str
)
def test_status(machine, statuses, expected):
  machine.fake("python", RANK + f"sys.exit({statuses}[rank])")
  assert machine.run("local_pod.sh", "3").returncode == expected


def test_the_first_failure_counts_and_the_others_may_notice_it(machine):
  machine.fake(
    "python", RANK + "time.sleep(0 if rank == 1 else 1)\nsys.exit(3 if rank == 1 else 4)"
  )
  result = machine.run("local_pod.sh", "2", GRACE="20")
  assert result.returncode == 3
  assert "process 1 ended with status 3" in result.stderr
  assert "killing" not in result.stderr


def test_a_process_that_ignores_the_failure_is_killed(machine):
  pid = machine.root / "pid"
  deaf = (
    RANK + "if rank == 1: sys.exit(3)\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    f"open({str(pid)!r}, 'w').write(str(os.getpid()))\n"
    "time.sleep(60)\n"
  )
  machine.fake("python", deaf)
  began = time.monotonic()
  result = machine.run("local_pod.sh", "2", GRACE="1")
  assert 1 <= time.monotonic() - began < 15
  assert result.returncode == 3
  assert "process 0" in result.stderr.splitlines()[1]
  assert not alive(int(pid.read_text()))


def test_a_process_that_was_killed(machine):
  machine.fake("python", RANK + "os.kill(os.getpid(), signal.SIGKILL) if rank == 0 else 0")
  assert machine.run("local_pod.sh", "2").returncode == 128 + signal.SIGKILL


def test_children_of_the_processes_do_not_outlive_them(machine):
  # They hold the pipe of the output and would keep the launcher waiting.
  pid = machine.root / "pid"
  body = f"os.system('sleep 60 & echo $! >{pid}')"
  machine.fake("python", body)
  assert machine.run("local_pod.sh", "1").returncode == 0
  assert not alive(int(pid.read_text()))


@pytest.mark.parametrize(
  ("sent", "received"),
  [
    (signal.SIGTERM, signal.SIGTERM),
    (signal.SIGINT, signal.SIGINT),
    (signal.SIGHUP, signal.SIGTERM),
  ],
)
def test_signals_reach_every_process_once(machine, ended, sent, received):
  machine.fake("python", PATIENT)
  process = machine.start("local_pod.sh", "2")
  read_until_ready(process, 2)
  # A terminal sends the signal to the whole group, too.
  os.killpg(process.pid, sent)
  result = ended(process)
  assert result.returncode == 128 + received
  for rank in (0, 1):
    assert lines_of(result, rank) == [f"got {int(received)}"]


def test_an_interrupt_is_not_ignored_from_the_start(machine, ended):
  machine.fake("python", "print('ready', flush=True)\ntime.sleep(20)")
  process = machine.start("local_pod.sh", "2")
  read_until_ready(process, 2)
  process.send_signal(signal.SIGINT)
  assert ended(process).returncode in (
    1,
    128 + signal.SIGINT,
  )  # of Python


@pytest.mark.parametrize("args", [[], ["0"], ["two"], ["--config=configs/digits.py"]], ids=str)
def test_usage(machine, args):
  machine.fake("python")
  result = machine.run("local_pod.sh", *args)
  assert result.returncode == 2
  assert len(result.stderr.splitlines()) == 1
  assert machine.calls("python") == []


def test_no_interpreter(machine):
  assert machine.run("local_pod.sh", "2", PYTHON="absent").returncode == 127


@pytest.mark.long
def test_two_processes_make_a_poison(tmp_path, launch):
  flags = (
    "--config=configs/digits.py --mode=generate --config.data.max_train=200 "
    "--config.data.max_test=100 --config.method.model.width=4 --config.method.source.batch_size=64 "
    "--config.method.batch_size=64 --config.method.epochs=1 --config.method.steps=2"
  )
  workdir = tmp_path / "run"
  inherited = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
  result = subprocess.run(
    [launch / "local_pod.sh", "2", *shlex.split(flags), f"--workdir={workdir}"],
    cwd=ROOT,
    env=inherited | {"PYTHON": sys.executable},
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert result.returncode == 0, result
  delta = np.load(workdir / "poison" / "delta.npy", allow_pickle=False)
  assert delta.shape[0] == 200
  assert 0 < np.abs(delta).max() <= 8
  # Only process 0 reports; two processes without a connection would both report.
  assert result.stdout.count("generate: epoch 1/1") == 1, result
