"""Starts another program that holds a lock."""

import contextlib
import subprocess
import sys

_PROGRAM = """
import pathlib, sys
from miue_jax.machine.locks import Locks
path, *names = sys.argv[1:]
names = [int(name) if name.isdecimal() else name for name in names]
with Locks(pathlib.Path(path)).hold(*names, wait=False) as ours:
  print(ours, flush=True)
  sys.stdin.readline()
"""

_ALONE = """
import pathlib, sys
from miue_jax.machine import locks
with locks.alone(pathlib.Path(sys.argv[1])):
  print(True, flush=True)
  sys.stdin.readline()
"""


def holding(path, *names):
  """Lets another process hold a lock during the block; `let_go` or its end releases the lock."""
  return _other(_PROGRAM, path, *names)


def alone(path):
  """Lets another process work in a folder during the block."""
  return _other(_ALONE, path)


@contextlib.contextmanager
def _other(program, *arguments):
  command = [sys.executable, "-c", program, *map(str, arguments)]
  pipe = subprocess.PIPE
  with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
    assert process.stdout.readline() == "True\n"
    try:
      yield process
    finally:
      process.kill()


def let_go(process):
  process.stdin.write("\n")
  process.stdin.flush()
