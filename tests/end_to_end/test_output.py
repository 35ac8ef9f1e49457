"""Tests the output of the program: help, version, and text that it does not control."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from program import ROOT, TINY

import miue_jax


def program(*flags, shell="", **variables):
  """Runs the program; `shell` follows the command, such as a redirection."""
  command = [sys.executable, "-m", "miue_jax.main", *flags]
  if shell:
    command = ["bash", "-c", f'set -o pipefail; "$@" {shell}', "bash", *command]
  environment = {**os.environ, **variables}
  return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_the_version():
  result = program("--version")
  assert (result.returncode, result.stdout) == (0, f"miue-jax {miue_jax.__version__}\n")


@pytest.mark.parametrize("flag", ["--help", "--helpfull", "-h"])
def test_the_help_lists_flags_modes_and_examples(flag):
  result = program(flag)
  assert result.returncode == 0
  assert result.stderr == ""
  for text in ("--mode=restore --images=", "--price\n", "plan: Predicts", "Exit status: 0 done"):
    assert text in result.stdout


def test_help_imports_no_jax():
  code = (
    "import sys; sys.argv = ['x', '--help']; from miue_jax import main\n"
    "try: main.console()\n"
    "except SystemExit: print('jax' in sys.modules, 'numpy' in sys.modules, file=sys.stderr)"
  )
  result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
  assert result.stderr == "False False\n"


def test_an_encoding_without_the_characters(finished, tmp_path):
  workdir = shutil.copytree(finished[0], tmp_path / "run")
  result = program(
    *TINY, f"--workdir={workdir}", "--mode=report", PYTHONIOENCODING="ascii", LC_ALL="C"
  )
  assert result.returncode == 0, result.stderr
  assert "victim" in result.stdout
  assert result.stdout.isascii()


def test_escapes_in_a_path_do_not_reach_the_terminal(fork, tmp_path):
  path = tmp_path / "a\x1b[31m\nb.npz"
  sentence = fork("--config=configs/npz.py", f"--config.data.path={path}").sentence()
  assert "a\\x1b[31m b.npz is not a file" in sentence


def test_a_reader_that_leaves_ends_the_program_quietly():
  result = program("--help", shell="| head -0")
  assert result.stderr == ""
  assert result.returncode in (0, 141)  # 0: the pipe took all before its reader left


def test_a_full_disk_is_one_line():
  result = program("--help", shell=">/dev/full")
  assert result.returncode == 2
  assert re.fullmatch(r"miue-jax: The result cannot be printed: No space left.*\n", result.stderr)


def test_a_closed_stdout_is_one_line():
  result = program("--version", shell=">&-")
  assert result.returncode == 2
  assert re.fullmatch(r"miue-jax: The standard output is closed.*\n", result.stderr)


def test_a_fraction_is_a_value_of_a_setting(fork):
  sentence = fork("--config.method.epsilon=128/255").sentence()
  assert "method.epsilon is 0.50196" in sentence


def test_a_file_of_flags_may_name_the_recipe(fork, tmp_path):
  file = tmp_path / "flags.txt"
  file.write_text("--config=configs/npz.py\n--config.data.path=absent.npz\n")
  assert "absent.npz is not a file" in fork(f"--flagfile={file}").sentence()
