"""Runs the launch scripts for real, with fake commands that record how they were called."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
_RECORDED = ("CUDA_", "JAX_", "PYTHON", "SRUN_", "XLA_")
_FAKE = """\
#!{python} -IS
import json, os, signal, sys, time
kept = {{k: v for k, v in os.environ.items() if k.startswith({recorded!r})}}
call = json.dumps([{name!r}, sys.argv[1:], kept]) + "\\n"
file = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.write(file, call.encode())  # in one write: processes of a pod write at the same time
os.close(file)
{body}
"""


@dataclasses.dataclass(frozen=True)
class Call:
  """The arguments and the environment of one call of a fake."""

  args: list[str]
  env: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Machine:
  """A home folder and a PATH that begins with fakes."""

  root: pathlib.Path

  @property
  def home(self) -> pathlib.Path:
    return self.root / "home"

  def fake(self, name: str, body: str = "", folder: pathlib.Path | None = None) -> pathlib.Path:
    """Makes a command that records its call and then runs `body`, which is Python code."""
    path = (folder or self.root / "bin") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    log = str(self.root / "calls.jsonl")
    path.write_text(
      _FAKE.format(python=sys.executable, recorded=_RECORDED, name=name, log=log, body=body)
    )
    path.chmod(0o755)
    return path

  def calls(self, name: str) -> list[Call]:
    """Returns the calls of a fake, in order."""
    log = self.root / "calls.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    called = [json.loads(line) for line in lines]
    return [Call(args, env) for command, args, env in called if command == name]

  def start(self, script: str, *args: str, **env: str) -> subprocess.Popen:
    """Starts a launch script in an environment that holds only `env`."""
    path = os.pathsep.join([str(self.root / "bin"), "/usr/bin", "/bin"])
    return subprocess.Popen(
      ["bash", str(LAUNCH / script), *args],
      cwd=self.home,
      env={"PATH": path, "HOME": str(self.home), **env},
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )

  def run(self, script: str, *args: str, **env: str) -> subprocess.CompletedProcess:
    """Runs a launch script and waits for its end."""
    return ended(self.start(script, *args, **env))


def ended(process: subprocess.Popen) -> subprocess.CompletedProcess:
  """Waits for a started launch script."""
  try:
    out, err = process.communicate(timeout=30)
  except subprocess.TimeoutExpired:
    process.kill()
    raise
  return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture
def machine(tmp_path):
  """Returns a machine without fakes."""
  made = Machine(tmp_path)
  made.home.mkdir()
  return made


@pytest.fixture
def launch():
  """Returns the folder of the launch scripts."""
  return LAUNCH


@pytest.fixture(name="ended")
def ended_fixture():
  """Returns `ended(process)`, which waits for a process of `Machine.start`."""
  return ended
