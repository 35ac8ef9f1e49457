"""Tests the program as a user runs it, and its flags."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks import speed
from miue_jax.plan.sizes import image_shape
from miue_jax.settings.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("numbers", [["32", "32"], ["32", "32", "-3"]])
def test_an_image_shape_that_is_not_three_numbers_is_an_error(numbers):
  with pytest.raises(UserError, match=f"image_shape is {','.join(numbers)};"):
    image_shape(numbers)


def test_a_number_of_images_that_is_no_number_is_an_error():
  assert speed._count("500") == 500
  with pytest.raises(UserError, match="--scaling holds '-5'"):
    speed._count("-5")


def run(*arguments):
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  return subprocess.run(
    [sys.executable, "-m", "benchmarks.speed", *arguments],
    capture_output=True, text=True, env=environment, cwd=ROOT, timeout=600, check=False,
  )  # fmt: skip


@pytest.mark.long
def test_the_program_writes_a_table_json_and_plots(tmp_path):
  done = run(
    "--config.method.model.name=linear", "--config.victim.name=linear", "--config.method.epochs=1",
    "--config.method.batch_size=8", "--config.method.source.batch_size=8",
    "--config.victim_fit.batch_size=8", "--stages=delta,evaluate",
    "--repeats=2", "--seconds=0", "--peer=none", "--check_plan", f"--plots={tmp_path / 'plots'}",
    "--scaling=8,16", f"--output={tmp_path / 'results.json'}",
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  results = json.loads((tmp_path / "results.json").read_text())
  assert [row["step"] for row in results["stages"]] == ["delta", "evaluate"]
  found = results["plan"]
  assert found["ratio"] == pytest.approx(found["measured"] / found["predicted"])
  assert [row["images"] for row in results["over_images"]] == [8, 16]
  assert [row["devices"] for row in results["over_devices"]][:3] == [1, 2, 4]
  assert "16 random images of 32x32x1" in done.stdout
  rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("|")]
  assert {"step", "delta", "evaluate", "images", "devices"} <= set(rows)
  assert {path.name for path in (tmp_path / "plots").iterdir()} == {"images.svg", "devices.svg"}


@pytest.mark.long
def test_a_mistake_is_one_sentence_and_status_2():
  done = run("--config.method.stepz=3")
  assert done.returncode == 2
  assert done.stderr.startswith("miue-jax: Unknown setting method.stepz")
  assert "Traceback" not in done.stderr
