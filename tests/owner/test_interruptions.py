"""Kills and interrupts the program at random moments; the same command ends with the same files.

    MIUE_TEST_SIGNALS=20 python -m pytest -m long tests/owner/test_interruptions.py

sends 20 signals to each command, SIGKILL as often as the two others.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image
from toy_pictures import toy

COUNT = int(os.environ.get("MIUE_TEST_SIGNALS", "3"))
SIGNALS = signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT


def start(*arguments):
  return subprocess.Popen(
    [sys.executable, "-m", "miue_jax", *map(str, arguments)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def pictures(folder):
  return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


def interrupt(command, folder, longest):
  """Starts a command again and again, each time until a signal; removes what a finished one made.

  Args:
    command: The arguments.
    folder: The folder that it writes.
    longest: Seconds after which it is interrupted at the latest.

  Returns:
    How many signals came before the command had ended.
  """
  moments, hit = random.Random(0), 0
  for number in range(COUNT):
    process, signum = start(*command), SIGNALS[number % len(SIGNALS)]
    time.sleep(moments.uniform(0, longest))
    process.send_signal(signum)
    _, err = process.communicate()
    if process.returncode == 0:
      for path in folder.parent.glob(f"{folder.name}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
      continue
    hit += 1
    assert process.returncode in (-signum, 128 + signum), err
    if signum != signal.SIGKILL and process.returncode > 0:
      assert len([line for line in err.splitlines() if signum.name in line]) == 1
      assert "Traceback" not in err
    for name in pictures(folder) if folder.exists() else ():
      if not name.rpartition("/")[2].startswith("."):
        with Image.open(folder / name) as image:
          image.load()
  return hit


@pytest.mark.long
def test_the_same_files_after_signals(tmp_path):
  photos, whole, folder = tmp_path / "photos", tmp_path / "whole", tmp_path / "parts"
  toy(photos, "a", 10)
  toy(photos, "bbb", 10)

  def protect(out):
    return "protect", photos, out, "--yes", "--time", "1s", "--seed", "1"

  began = time.monotonic()
  out, err = start(*protect(whole)).communicate()
  longest = time.monotonic() - began
  assert len(pictures(whole)) == 20, (out, err)
  assert interrupt(protect(folder), folder, longest / 2)
  _, err = start(*protect(folder)).communicate()
  assert pictures(folder) == pictures(whole), err

  restore = "restore", whole, tmp_path / "originals"
  began = time.monotonic()
  process = start(*restore)
  out, err = process.communicate()
  assert process.returncode == 0, (out, err)
  longest = time.monotonic() - began
  again = tmp_path / "again"
  assert interrupt(("restore", whole, again), again, longest)
  out, err = start("restore", whole, again).communicate()
  assert pictures(again) == pictures(tmp_path / "originals"), (out, err)
  for name in pictures(photos):
    with Image.open(photos / name) as original, Image.open(again / name) as restored:
      assert original.tobytes() == restored.tobytes()
