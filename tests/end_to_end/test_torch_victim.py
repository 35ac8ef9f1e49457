"""A victim written in PyTorch, which shares no code with the package, learns nothing either."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from miue_jax.data import sources
from miue_jax.settings import config

SCRIPT = pathlib.Path(__file__).with_name("torch_victim.py")
FLAGS = (
  "--config=configs/digits.py",
  "--config.data.max_train=600",
  "--config.method.source.batch_size=64",
  "--config.method.checkpoint_every=10",
)


def accuracy(folder, test):
  """Percent of the clean test images that a PyTorch network trained on `folder` gets right."""
  command = [sys.executable, str(SCRIPT), str(folder), str(test)]
  result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
  return float(result.stdout.removeprefix("test accuracy: "))


@pytest.mark.long
def test_a_torch_victim_learns_from_restored_digits_but_not_from_exported_ones(run, fork, tmp_path):
  pytest.importorskip("torch", reason="PyTorch is not installed")
  workdir, test = f"--workdir={tmp_path}", tmp_path / "test.npz"
  assert run(*FLAGS, workdir, "--mode=generate").code == 0
  assert fork(*FLAGS, workdir, "--mode=export").code == 0
  assert fork(*FLAGS, workdir, "--mode=restore").code == 0
  clean = sources.load(config.Data()).test
  np.savez(test, x_test=clean.images, y_test=clean.labels)

  restored = accuracy(tmp_path / "restored" / "train", test)
  exported = accuracy(tmp_path / "images" / "train", test)
  assert restored > 90
  assert exported < restored - 40
