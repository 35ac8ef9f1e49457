"""Runs the Python code of README and the commands of research.md on toy data."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import snippets
from program import TINY

import miue_jax as mj

# Each command runs in seconds with these flags in addition.
SMALL = [*TINY[1:], "--config.evaluate.conditions=('clean', 'poison')"]
CELLS = ["--config.compare.methods=('lsp',)", "--config.compare.defences=('none', 'cutout')"]
CELLS += ["--config.compare.seeds=(0,)", "--config.compare.published="]
LEFT_BEHIND = {
  "FILE": "runs/npz/report/index.html",
  "compare": "runs/compare/report/compare.html",
  "other": "other.npz",
  "pretrained": "runs/pretrained/report/index.html",
  "features": "mi.json",
}


def images(count, seed):
  """Returns small images and labels of ten classes."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, 8, 8, 3), np.uint8), np.arange(count) % 10


def commands():
  """Returns each command of research.md, without the one that explains the others."""
  text = "".join(text for _, text in snippets.blocks("research.md")).replace("\\\n", " ")
  found = [line for line in text.splitlines() if "RECIPE" not in line]
  assert all(line.startswith("python -m miue_jax.main ") for line in found)
  return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """Returns an empty folder in which the files lie that research.md names."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("PATH", f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
  for seed, name in enumerate(("FILE", "OTHER")):
    x, y = images(100, seed)
    np.savez(f"{name}.npz", x_train=x, y_train=y, x_test=x[:50], y_test=y[:50])
  rng = np.random.default_rng(0)
  before = rng.standard_normal((200, 8)).astype(np.float32)
  np.savez("features_clean.npz", before)
  np.savez("features_public.npz", before + 1)
  return tmp_path


@pytest.mark.slow
def test_the_commands_of_research_run(folder):
  for command in commands():
    flags = [] if "--features" in command else SMALL
    flags = flags + CELLS if "--mode=compare" in command else flags
    quoted = " ".join(f'"{flag}"' for flag in flags)
    subprocess.run(["bash", "-euc", f"{command} {quoted}"], check=True, timeout=600)
  assert not [path for path in LEFT_BEHIND.values() if not (folder / path).is_file()]


def test_no_command_of_research_is_left_out():
  assert len(commands()) == len(LEFT_BEHIND)


@pytest.mark.slow
def test_the_python_of_readme_runs(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (code,) = re.findall(
    r"^```python\n(.*?)^```", (snippets.DOCS.parent / "README.md").read_text(), re.M | re.S
  )
  (x, y), test = images(100, 0), images(50, 1)
  names = {"x": x, "y": y, "x_test": test[0], "y_test": test[1]}
  exec(compile(code, "README.md", "exec"), names)
  public = names["public"]
  assert 0 < np.abs(public.astype(int) - x).max() <= 8
  np.testing.assert_array_equal(mj.Poison.load("key/").restore(public), x)
  assert [row["method"] for row in names["rows"]] == ["clean", "miue"]
