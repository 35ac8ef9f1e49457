"""Helpers to start the program in a process of its own and to look at what it leaves."""

import dataclasses
import hashlib
import os
import pathlib
import re
import socket
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
TINY = (
  "--config=configs/digits.py",
  "--config.data.max_train=200",
  "--config.data.max_test=100",
  "--config.method.model.width=4",
  "--config.victim.width=4",
  "--config.method.source.batch_size=64",
  "--config.method.batch_size=64",
  "--config.method.epochs=2",
  "--config.method.steps=2",
  "--config.victim_fit.batch_size=64",
  "--config.victim_fit.epochs=2",
  "--config.evaluate.seeds=(0,)",
)
_SECONDS = 300  # far beyond what any tiny run needs, even on a busy machine
_LOG_LINE = re.compile(r"[IW]\d{4} [\d:.]+ +\d+ \S+:\d+\] ")


@dataclasses.dataclass(frozen=True)
class Result:
  """Holds the exit status and the output of a process."""

  code: int
  out: str
  err: str

  def sentence(self) -> str:
    """The one sentence of a refusal, after checking that nothing else was said."""
    said = [line for line in self.err.splitlines() if not _LOG_LINE.match(line)]
    assert self.code == 2, self
    assert len(said) == 1, self
    assert said[0].startswith("miue-jax: "), self
    assert self.out == ""
    return said[0]


def ended(process) -> Result:
  """Waits for a `subprocess.Popen` or a `Fork`."""
  out, err = process.communicate(timeout=_SECONDS)
  return Result(process.returncode, out, err)


def meeting(processes) -> list[dict[str, str]]:
  """The variables by which so many processes find each other, for each of them."""
  with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
  return [
    {
      "JAX_COORDINATOR_ADDRESS": address,
      "JAX_NUM_PROCESSES": str(processes),
      "JAX_PROCESS_ID": str(process),
    }
    for process in range(processes)
  ]


class Fork:
  """The program in a fork of `context`'s server, to be watched and stopped as a `Popen` is."""

  def __init__(self, context, flags, folder, variables):
    self._files = [folder.with_name(f"{folder.name}.{name}") for name in ("out", "err")]
    for file in self._files:
      file.touch()  # a fork may be killed before it opens them
    arguments = (list(map(str, flags)), folder, variables, *self._files)
    self._process = context.Process(target=_main, args=arguments)
    self._process.start()
    self.kill = self._process.kill

  def poll(self):
    return self._process.exitcode

  returncode = property(poll)

  def send_signal(self, signum):
    os.kill(self._process.pid, signum)

  def communicate(self, timeout=None):
    self._process.join(timeout)
    return tuple(file.read_text() for file in self._files)


def _main(flags, folder, variables, *files):
  import jax

  from miue_jax import main

  os.environ.update(variables)
  if devices := variables.get("JAX_NUM_CPU_DEVICES"):
    jax.config.update("jax_num_cpu_devices", int(devices))  # jax was imported before
  for number, path in enumerate(files, 1):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
  os.chdir(folder)
  sys.argv = ["miue-jax", *flags]
  main.console()


def wait_until(condition, process) -> None:
  """Returns once `condition()` holds; the process must be alive until then."""
  deadline = time.monotonic() + _SECONDS
  while not condition():
    assert process.poll() is None, ended(process)
    assert time.monotonic() < deadline
    time.sleep(0.01)


def content(folder) -> dict[str, str]:
  """sha256 of every file below a folder, except the log and the locks."""
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.rglob("*"))
    if path.is_file() and path.name != "log.txt" and path.parent.name != ".locks"
  }


def epochs(workdir, stage) -> list[int]:
  """Epochs of a stage in the log, in the order in which they ended."""
  log = workdir / "log.txt"
  text = log.read_text() if log.exists() else ""
  return [int(number) for number in re.findall(rf"\] {re.escape(stage)}: epoch (\d+)/", text)]
