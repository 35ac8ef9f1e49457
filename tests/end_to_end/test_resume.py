"""Whatever stops the program, the same command continues and ends with the same bytes."""

import json
import random
import signal
import time

import numpy as np
import pytest
from program import TINY, ended, epochs, wait_until

# Only a signal saves: an epoch that was lost would show.
STOPPED = (*TINY, "--config.method.epochs=6", "--config.method.checkpoint_every=100",
           "--config.victim_fit.epochs=6", "--config.victim_fit.checkpoint_every=100",
           "--config.evaluate.conditions=('clean', 'poison')")  # fmt: skip
EVERY = 2  # epochs between checkpoints
KILLED = (*TINY, "--config.method.epochs=20", f"--config.method.checkpoint_every={EVERY}",
          "--mode=generate")  # fmt: skip


def delta_of(workdir):
  return np.load(workdir / "poison" / "delta.npy", allow_pickle=False)


def rows_of(workdir):
  lines = (workdir / "results.jsonl").read_text().splitlines()
  return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.mark.long
def test_signals_save_and_the_same_command_continues(start, run, tmp_path):
  whole, stopped = tmp_path / "whole", tmp_path / "stopped"
  assert run(*STOPPED, f"--workdir={whole}").code == 0

  for stage, signum in (("generate", signal.SIGTERM), ("clean seed 0", signal.SIGINT)):
    process = start(*STOPPED, f"--workdir={stopped}")
    wait_until(lambda stage=stage: 2 in epochs(stopped, stage), process)
    process.send_signal(signum)
    result = ended(process)
    assert result.code == 128 + signum, result
    assert f"{signum.name}: saved in {stopped / 'checkpoints'}" in result.err
    assert "Traceback" not in result.err
    assert 6 not in epochs(stopped, stage)  # it stopped at once
  assert run(*STOPPED, f"--workdir={stopped}").code == 0

  for stage in ("generate", "clean seed 0", "miue seed 0"):
    assert epochs(stopped, stage) == [1, 2, 3, 4, 5, 6]  # over three sittings
  assert np.array_equal(delta_of(stopped), delta_of(whole))
  assert rows_of(stopped) == rows_of(whole)
  measured = [json.loads((w / "measurement.json").read_text()) for w in (stopped, whole)]
  assert measured[0] == measured[1]


@pytest.mark.slow
@pytest.mark.parametrize(
  "signum", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)]
)
def test_a_signal_before_the_work_starts(start, tmp_path, signum):
  process = start(*TINY, f"--workdir={tmp_path}")
  wait_until((tmp_path / "log.txt").exists, process)
  process.send_signal(signum)
  result = ended(process)
  assert result.code == 128 + signum, result
  assert "Traceback" not in result.err
  assert not (tmp_path / "poison").exists()


@pytest.mark.slow
def test_kills_lose_little_and_change_nothing(start_fork, fork, tmp_path):
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  assert fork(*KILLED, f"--workdir={whole}").code == 0

  moments, last = random.Random(0), 0
  for _ in range(3):
    before = len(epochs(killed, "generate"))
    process = start_fork(*KILLED, f"--workdir={killed}")
    wait_until(lambda before=before: len(epochs(killed, "generate")) > before, process)
    time.sleep(moments.uniform(0, 0.3))
    process.kill()
    assert ended(process).code == -signal.SIGKILL
    sitting = epochs(killed, "generate")[before:]
    assert sitting == list(range(sitting[0], sitting[-1] + 1))
    assert last - EVERY < sitting[0] <= last + 1
    last = sitting[-1]
  assert not (killed / "poison").exists()
  assert fork(*KILLED, f"--workdir={killed}").code == 0

  assert np.array_equal(delta_of(killed), delta_of(whole))
  assert not (killed / "checkpoints" / "generate").exists()
