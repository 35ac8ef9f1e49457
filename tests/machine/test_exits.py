"""Signals end the program, whatever it is doing."""

import os
import signal
import subprocess
import sys

import pytest

START = """
import gc, os, signal, sys, time
from miue_jax.machine import exits
exits.catch()
"""


def run(program, shell="", **options):
  """Runs a program that catches signals; returns its exit status and what it wrote to stderr.

  `shell` prepares it: a function between fork and exec would run in a fork of jax's threads.
  """
  options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE} | options
  command = ["sh", "-c", f'{shell}exec "$0" "$@"', sys.executable, "-c", START + program]
  ended = subprocess.run(command, text=True, **options)
  return ended.returncode, ended.stderr


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_program_with_one_line(signum):
  status, said = run(f"os.kill(os.getpid(), {signum:d})\ntime.sleep(60)")
  assert (status, said) == (
    128 + signum,
    f"miue-jax: {signum.name}; what was stored is kept: run the same command again.\n",
  )


# Python prints and ignores an exception that a handler raises in any of these places.
@pytest.mark.parametrize(
  "place",
  [
    "gc.callbacks.append(lambda phase, info: stop())\ngc.collect()",
    "class Thing:\n  def __del__(self): stop()\nThing()",
    "import weakref\nclass Thing: pass\nthing = Thing()\n"
    "ref = weakref.ref(thing, lambda _: stop())\ndel thing",
    "import ctypes\nctypes.CFUNCTYPE(None)(stop)()",
    "try: stop()\nexcept BaseException: pass",
  ],
)
def test_no_signal_is_swallowed(place):
  status, _ = run(f"def stop(): os.kill(os.getpid(), 15); time.sleep(0)\n{place}\ntime.sleep(60)")
  assert status == 128 + signal.SIGTERM


def test_nohup_keeps_its_promise():
  status, said = run(
    "os.kill(os.getpid(), signal.SIGHUP)\nsys.exit(7)",
    shell="trap '' HUP; ",
  )
  assert (status, said) == (7, "")


def test_temporary_files_are_removed_but_not_by_a_fork(tmp_path):
  (tmp_path / "kept").write_text("")
  (tmp_path / "folder" / "below").mkdir(parents=True)
  (tmp_path / "folder" / "below" / "file").write_text("")
  (tmp_path / "folder" / "link").symlink_to(tmp_path / "kept")
  (tmp_path / "file").write_text("")
  status, _ = run(
    f"""
os.chdir({str(tmp_path)!r})
with exits.temporary("kept"): pass
with exits.temporary("folder"), exits.temporary("file"), exits.temporary("absent"):
  if not (fork := os.fork()):
    os.kill(os.getpid(), 15)
    time.sleep(60)
  assert os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]) == 143
  assert os.path.exists("folder/below/file")
  os.chdir("/")
  os.kill(os.getpid(), 15)
  time.sleep(60)
"""
  )
  assert status == 143
  assert os.listdir(tmp_path) == ["kept"]


def test_others_are_told():
  status, said = run(
    "with exits.telling(lambda signum: os.write(2, b'%d' % signum)):\n"
    "  os.kill(os.getpid(), 15)\n  time.sleep(60)"
  )
  assert (status, said[-2:]) == (143, "15")


def test_a_closed_stdin_is_no_terminal():
  program = "print(sys.stdin.isatty(), repr(sys.stdin.read()), file=sys.stderr)"
  assert run(program, shell="exec <&-; ") == (0, "False ''\n")


def test_closed_streams_are_no_problem(tmp_path):
  program = (
    f"file = open({str(tmp_path / 'file')!r}, 'w')\nassert file.fileno() > 2\n"
    "print('y', file=sys.stderr)\nsys.exit(7)"
  )
  status, _ = run(program, shell="exec <&- >&- 2>&-; ")
  assert status == 7
  assert (tmp_path / "file").read_text() == ""
