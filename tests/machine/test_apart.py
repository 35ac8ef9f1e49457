"""Work in a process of its own ends without ending the program, however it ends."""

import signal
import subprocess
import sys

import pytest

START = """
import os, signal, sys, time
from miue_jax.machine import exits
exits.catch()
from miue_jax.machine import apart
from miue_jax.settings.errors import UserError
here = os.getpid()
def crash(signum):
  os.kill(os.getpid(), signum)
  time.sleep(60)
"""


def run(program):
  """Runs a program; returns its exit status, and what it wrote to stdout and to stderr."""
  command = [sys.executable, "-c", START + program]
  ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
  return ended.returncode, ended.stdout, ended.stderr


def test_items_come_from_another_process_as_soon_as_they_are_there():
  program = """
def work():
  yield {"here": os.getpid() == here}
  yield [1.5, None]
  time.sleep(60)
for item in apart.each(work):
  print(item)
  if isinstance(item, list):
    break
try:
  os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
  print("no process is left")
"""
  assert run(program) == (0, "{'here': False}\n[1.5, None]\nno process is left\n", "")


@pytest.mark.parametrize("before", ["", "yield 1"])
@pytest.mark.parametrize("signum", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_is_an_exception(before, signum):
  program = f"""
def work():
  {before or "if 0: yield 1"}
  crash({signum:d})
found = []
try:
  for item in apart.each(work):
    found.append(item)
except apart.Crashed as crashed:
  print(found, crashed)
"""
  found = [1] if before else []
  assert run(program) == (0, f"{found} {signum.name}\n", "")


def test_problems_of_users_are_raised_again():
  program = """
def work():
  yield 1
  raise UserError("The colour 'blüe' is unknown: choose one.")
try:
  list(apart.each(work))
except UserError as error:
  print(error)
"""
  assert run(program) == (0, "The colour 'blüe' is unknown: choose one.\n", "")


def test_an_unexpected_error_is_shown_and_is_a_crash():
  program = """
def work():
  yield 1
  raise ZeroDivisionError
try:
  list(apart.each(work))
except apart.Crashed as crashed:
  print(crashed)
"""
  status, printed, shown = run(program)
  assert (status, printed) == (0, "exit status 70\n")
  assert "ZeroDivisionError" in shown


@pytest.mark.parametrize("busy", [
  "time.sleep(600)",
  "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",  # minutes outside of Python, as in a compiler
])  # fmt: skip
def test_a_signal_ends_both_processes(busy):
  program = f"""
import hashlib
def work():
  yield os.getpid()
  {busy}
for child in apart.each(work):
  print(child, flush=True)
  os.kill(here, signal.SIGTERM)
  time.sleep(60)
"""
  status, printed, _ = run(program)
  assert status == 128 + signal.SIGTERM
  # A pipe of a living child would have kept `run` waiting.
  assert int(printed) > 0


def test_after_the_start_of_jax_the_work_is_done_here():
  program = """
import jax
jax.config.update("jax_platforms", "cpu")
jax.devices()
print(*apart.each(lambda: [os.getpid() == here]))
"""
  status, printed, _ = run(program)
  assert (status, printed) == (0, "True\n")
