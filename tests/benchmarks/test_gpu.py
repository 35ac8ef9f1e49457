"""Rehearses the measurement of a GPU on the CPU, at toy size."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from toy_pictures import toy

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
LINEAR = ("--config.method.model.name=linear", "--config.victim.name=linear")


def test_without_its_arguments_it_says_what_they_are():
  done = subprocess.run([SCRIPT], capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert done.stderr == "usage: benchmarks/gpu.sh CIFAR10 OUT.json\n"


@pytest.mark.long
def test_a_rehearsal_measures_everything(tmp_path):
  changes = (
    *LINEAR, "--config.method.batch_size=8", "--config.method.source.batch_size=8",
    "--config.victim_fit.batch_size=8", "--config.victim_fit.epochs=2", "--config.method.epochs=2",
    "--config.method.steps=2", "--config.data.size=8",
  )  # fmt: skip
  environment = os.environ | {
    "PYTHON": sys.executable, "PLATFORM": "cpu", "BATCHES": "8 16", "SECONDS_EACH": "0",
    "MATRIX": "64", "KILL_AFTER": "4", "KILL_EPOCHS": "2", "CHANGES": " ".join(changes),
  }  # fmt: skip
  images, out = tmp_path / "images", tmp_path / "out.json"
  for name in ("a", "bbb"):
    toy(images / "train", name, 16)
    toy(images / "test", name, 8, start=16)
  done = subprocess.run(
    [SCRIPT, images, out],
    capture_output=True, text=True, env=environment, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  found = json.loads(out.read_text())
  assert found["matrix_tflops"] > 0
  assert list(found["speed"]) == ["8", "16"]
  for batch, speed in found["speed"].items():
    assert [row["step"] for row in speed["stages"]] == ["delta", "source", "victim"]
    assert {row["batch"] for row in speed["stages"]} == {int(batch)}
  assert found["whole"]["seconds"] > 0
  assert len(found["whole"]["victims"]) == 6
  assert found["resumed"]["same_bytes"], found["resumed"]
