"""Another program that works at something."""

import contextlib
import subprocess
import sys

_PROGRAM = """
import pathlib, sys
from miue_jax.machine.locks import Claims
path, *names = sys.argv[1:]
names = [int(name) if name.isdecimal() else name for name in names]
with Claims(pathlib.Path(path)).claim(*names, wait=False) as ours:
  print(ours, flush=True)
  sys.stdin.readline()
"""


@contextlib.contextmanager
def holding(path, *names):
  """Inside, another process has claimed this; it lets go when it reads a line or ends."""
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
