"""Tests tpu_pod.sh: its calls of gcloud, and its remote commands on a host.

The fake gcloud copies and runs locally, in a folder that represents the home of the only host.
"""

import os
import pathlib
import signal
import subprocess
import tarfile
import time

import pytest

PACKAGE = pathlib.Path(__file__).parents[2] / "miue_jax"
SENDS = pytest.mark.skipif(not PACKAGE.is_dir(), reason="sends the source of the package")
GCLOUD = """
import shutil, subprocess
args = sys.argv[1:]
what = " ".join(args[2:4])
if what == "tpu-vm ssh":
  command = next(arg for arg in args if arg.startswith("--command=")).split("=", 1)[1]
  sys.exit(subprocess.run(["bash", "-c", command], cwd=os.environ["HOST"]).returncode)
if what == "tpu-vm scp":
  source, target = [arg for arg in args[4:] if not arg.startswith("--")]
  if ":" in target:
    shutil.copy(source, os.path.join(os.environ["HOST"], target.split(":")[1]))
if what == "queued-resources describe":
  states = open(os.environ["STATES"]).read().split()
  print(states[0])
  open(os.environ["STATES"], "w").write(" ".join(states[1:]))
"""


@pytest.fixture
def pod(machine):
  """Returns `pod`: `pod(*args)` runs tpu_pod.sh, `pod.start(*args)` starts it."""
  machine.fake("gcloud", GCLOUD)
  host = machine.root / "host"
  host.mkdir()
  return Pod(machine, host)


class Pod:
  def __init__(self, machine, host):
    self.machine, self.host = machine, host

  def start(self, *args, **env):
    env = {"HOST": str(self.host), "STATES": str(self.host / "states"), "POLL": "0"} | env
    return self.machine.start("tpu_pod.sh", *args, **env)

  def __call__(self, *args, **env):
    process = self.start(*args, **env)
    out, err = process.communicate(timeout=30)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)

  def states(self, *states):
    (self.host / "states").write_text(" ".join(states))

  def asked(self, what):
    calls = [call.args for call in self.machine.calls("gcloud")]
    assert all(args[:2] == ["compute", "tpus"] and "--zone=us-west4-a" in args for args in calls)
    return [args[4:] for args in calls if " ".join(args[2:4]) == what]


def test_create_waits_for_the_slice(pod):
  pod.states("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE", "unread")
  assert pod("create").returncode == 0
  (args,) = pod.asked("queued-resources create")
  assert args == [
    "miue",
    "--node-id=miue",
    "--zone=us-west4-a",
    "--accelerator-type=v5litepod-64",
    "--runtime-version=v2-alpha-tpuv5-lite",
    "--spot",
  ]
  assert len(pod.asked("queued-resources describe")) == 3


def test_create_another_slice(pod):
  pod.states("ACTIVE")
  assert pod("create", TPU="big", TYPE="v6e-64", VERSION="v2-alpha-tpuv6e", SPOT="").returncode == 0
  (args,) = pod.asked("queued-resources create")
  assert args[0] == "big"
  assert {"--node-id=big", "--accelerator-type=v6e-64", "--runtime-version=v2-alpha-tpuv6e"} < set(
    args
  )
  assert "--spot" not in args


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_create_gives_up(pod, state):
  pod.states("WAITING_FOR_RESOURCES", state)
  result = pod("create")
  assert result.returncode == 1
  assert f"ended as {state}" in result.stderr


@SENDS
def test_install(pod):
  mounted = pod.host / "mounted"
  pod.machine.fake("python3")
  pod.machine.fake("mountpoint", f"sys.exit(not os.path.exists({str(mounted)!r}))")
  pod.machine.fake("sudo", f"if sys.argv[1] == 'mount': open({str(mounted)!r}, 'w')")

  for _ in range(2):  # the second time everything is installed
    assert pod("install", NFS="10.0.0.2:/share").returncode == 0
  archive = pod.host / "miue.tar.gz"
  with tarfile.open(archive) as content:
    names = set(content.getnames())
  assert {"pyproject.toml", "README.md", "miue_jax/main.py", "configs/cifar10.py"} <= names
  sent = {"LICENSE", "README.md", "configs", "miue_jax", "pyproject.toml"}  # needs no git
  assert {name.partition("/")[0] for name in names} == sent
  assert not any("__pycache__" in name for name in names)
  assert (pod.host / "miue" / "miue_jax" / "main.py").is_file()
  mounts = [call.args for call in pod.machine.calls("sudo") if call.args[0] == "mount"]
  assert mounts == [["mount", "-t", "nfs", "10.0.0.2:/share", "/mnt/miue"]]
  installed = pod.machine.calls("python3")[-1].args
  assert installed[-2:] == ["-e", "./miue[tpu]"]
  for what in ("tpu-vm scp", "tpu-vm ssh"):
    assert all("--worker=all" in args for args in pod.asked(what))


@SENDS
def test_a_failed_install_ends(pod):
  pod.machine.fake("python3", "sys.exit(1)")
  pod.machine.fake("mountpoint")
  assert pod("install", NFS="10.0.0.2:/share").returncode == 1
  assert pod.machine.calls("mountpoint") == []


def test_install_needs_a_shared_disk(pod):
  result = pod("install")
  assert result.returncode == 2
  assert "NFS=" in result.stderr
  assert pod.machine.calls("gcloud") == []


@pytest.fixture
def program(pod):
  """Returns `program(body)`, which puts a fake interpreter where `install` would."""
  folder = pod.host / "miue" / ".venv" / "bin"
  return lambda body: pod.machine.fake("python", body, folder)


def test_run(pod, program):
  program("print('epoch 1', flush=True)\nsys.exit(7)")
  flags = ["--config=configs/cifar10.py", "--config.evaluate.seeds=(0, 1)", "--output=it's *"]
  result = pod("run", *flags, WORKDIR="/mnt/miue/a b")
  assert result.returncode == 7
  assert "epoch 1" in result.stdout
  (call,) = pod.machine.calls("python")
  assert call.args == [
    "-m",
    "miue_jax.main",
    "--distributed_timeout=300",
    *flags,
    "--workdir=/mnt/miue/a b",
  ]
  assert call.env["JAX_PLATFORMS"] == "tpu,cpu"
  (args,) = pod.asked("tpu-vm ssh")
  assert args[0] == "miue"
  assert "--worker=all" in args


@pytest.mark.parametrize("flags", [["--workdir=runs/x"], ["--mode=run", "-workdir", "runs/x"]])
def test_the_workdir_is_no_flag(pod, flags):
  result = pod("run", *flags)
  assert result.returncode == 2
  assert "set the variable WORKDIR" in result.stderr
  assert pod.machine.calls("gcloud") == []


RUNNING = """
def save(*_):
  print("saved", flush=True)
  sys.exit(128 + signal.SIGTERM)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(20)
"""


def test_stop_lets_the_run_save(pod, program):
  program(RUNNING)
  process = pod.start("run")
  assert "ready" in process.stdout.readline()
  assert pod("stop").returncode == 0
  process.communicate(timeout=30)
  assert process.returncode == 128 + signal.SIGTERM


def test_a_run_survives_its_connection(pod, program):
  program(RUNNING)
  process = pod.start("run")
  assert "ready" in process.stdout.readline()
  os.killpg(process.pid, signal.SIGHUP)
  process.communicate(timeout=30)

  assert pod("stop").returncode == 0
  log = pod.host / "miue.log"
  deadline = time.monotonic() + 10
  while "saved" not in log.read_text():
    assert time.monotonic() < deadline
    time.sleep(0.01)


def test_ssh(pod):
  result = pod("ssh", "echo", "here; pwd")
  assert result.stdout.split() == ["here", str(pod.host)]


def test_fetch(pod, tmp_path):
  assert pod("fetch", "results", WORKDIR="/mnt/miue/x").returncode == 0
  assert pod.asked("tpu-vm scp") == [
    ["--recurse", "miue:/mnt/miue/x", "results", "--zone=us-west4-a", "--worker=0"]
  ]
  assert (pod.machine.home / "results").is_dir()


def test_delete(pod):
  assert pod("delete").returncode == 0
  (args,) = pod.asked("queued-resources delete")
  assert args[0] == "miue"
  assert {"--force", "--quiet"} <= set(args)  # deletes its node, asks no question


@pytest.mark.parametrize("args", [[], ["fly"], ["everywhere"]], ids=str)
def test_usage(pod, args):
  result = pod(*args)
  assert result.returncode == 2
  assert "create, install, run" in result.stderr
  assert pod.machine.calls("gcloud") == []
