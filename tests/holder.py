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


@contextlib.contextmanager
def holding(path, *names):
  """Lets another process hold a lock during the block; `let_go` or its end releases the lock."""
  command = [sys.executable, "-c", _PROGRAM, str(path), *map(str, names)]
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
