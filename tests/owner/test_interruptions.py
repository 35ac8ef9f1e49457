"""Kills and interrupts the program at random moments; the same command ends with the same files."""

import random
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image
from toy_pictures import toy


def start(photos, out):
  arguments = ("protect", photos, out, "--yes", "--time", "1s", "--seed", "1")
  return subprocess.Popen(
    [sys.executable, "-m", "miue_jax", *map(str, arguments)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def published(out):
  return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.*")}


@pytest.mark.long
def test_the_same_files_after_signals(tmp_path):
  photos, whole, folder = tmp_path / "photos", tmp_path / "whole", tmp_path / "parts"
  toy(photos, "a", 10)
  toy(photos, "bbb", 10)
  began = time.monotonic()
  out, err = start(photos, whole).communicate()
  longest = time.monotonic() - began
  assert len(published(whole)) == 20, (out, err)
  moments = random.Random(0)
  for signum in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
    process = start(photos, folder)
    time.sleep(moments.uniform(0, longest / 2))
    process.send_signal(signum)
    _, err = process.communicate()
    if signum != signal.SIGKILL and process.returncode > 0:
      assert process.returncode == 128 + signum, err
      assert len([line for line in err.splitlines() if signum.name in line]) == 1
      assert "Traceback" not in err
    for name in published(folder) if folder.exists() else ():
      if not name.rpartition("/")[2].startswith("."):
        with Image.open(folder / name) as image:
          image.load()
  _, err = start(photos, folder).communicate()
  assert published(folder) == published(whole), err
