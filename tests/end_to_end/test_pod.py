"""Several processes over localhost are one program: one result, one end."""

import json
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from program import ROOT, TINY, ended, epochs, meeting, wait_until

from miue_jax.machine import sharding
from miue_jax.machine.checkpoint import Checkpoints

LONG = (*TINY, "--config.method.epochs=8", "--config.method.checkpoint_every=1", "--mode=generate")
ADVICE = "check that all were started"
FOUR = {"JAX_NUM_CPU_DEVICES": "4"}


def delta_of(workdir):
  return np.load(workdir / "poison" / "delta.npy", allow_pickle=False)


def rows_of(workdir):
  return [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]


def history_of(workdir):
  return json.loads((workdir / "poison" / "manifest.json").read_text())["history"]


def assert_same_delta(delta, expected):
  # Processes may add the gradients of the devices in another order than one process does. That
  # moves their last bit, which in two epochs decides the sign of those that are almost 0, and of
  # nothing else: a lost device or a batch that is not the global one would turn many.
  assert np.mean(delta == expected) >= 0.999
  assert np.abs(expected).mean() > 0.5


@pytest.mark.slow
def test_two_processes_make_what_one_makes(start_fork, start_pod, tmp_path):
  one, two = tmp_path / "one", tmp_path / "two"
  flags = (*TINY, "--config.evaluate.conditions=('poison',)")
  assert ended(start_fork(*flags, f"--workdir={one}", **FOUR)).code == 0
  lead, other = map(ended, start_pod(2, 2, *flags, f"--workdir={two}"))
  assert (lead.code, other.code) == (0, 0), (lead, other)
  assert_same_delta(delta_of(two), delta_of(one))
  for row, expected in zip(rows_of(two), rows_of(one), strict=True):
    assert row.keys() == expected.keys()
    # A hundred test images: one that changes sides is a point.
    assert abs(row["test_accuracy"] - expected["test_accuracy"]) <= 1
    np.testing.assert_allclose(
      row["curve"]["train_loss"], expected["curve"]["train_loss"], rtol=1e-3
    )
  measured = [json.loads((w / "measurement.json").read_text())["rows"] for w in (one, two)]
  for row, expected in zip(*measured, strict=True):
    assert row["mi"] == pytest.approx(expected["mi"], abs=0.05)
  # Only the lead speaks and writes.
  assert "Report: " in lead.out
  assert "Report: " not in other.out
  assert "epoch" not in other.err
  assert epochs(two, "generate") == epochs(one, "generate") == [1, 2]
  assert [len(list((w / "tensorboard").iterdir())) for w in (one, two)] == [2, 2]


@pytest.mark.long
def test_what_stops_one_stops_all_and_a_restart_continues(start_fork, start_pod, tmp_path):
  whole, parts, moved = (tmp_path / name for name in ("whole", "parts", "moved"))
  results = [ended(process) for process in start_pod(2, 2, *LONG, f"--workdir={whole}")]
  assert [result.code for result in results] == [0, 0], results

  for victim, survivor in ((1, 0), (0, 1)):
    before = len(epochs(parts, "generate"))
    pod = start_pod(2, 2, *LONG, f"--workdir={parts}")
    wait_until(lambda before=before: len(epochs(parts, "generate")) > before, pod[victim])
    pod[victim].kill()
    died = time.monotonic()
    result = ended(pod[survivor])
    assert time.monotonic() - died < 60
    assert result.code == 3, result
    # The coordinator tells the survivor of it, or a collective that waits in vain fails first.
    assert result.err.splitlines()[-1].startswith("miue-jax: another process died, or "), result
    assert ended(pod[victim]).code == -signal.SIGKILL

  before = len(epochs(parts, "generate"))
  pod = start_pod(2, 2, *LONG, f"--workdir={parts}")
  wait_until(lambda: len(epochs(parts, "generate")) > before, pod[1])
  pod[1].send_signal(signal.SIGTERM)
  lead, other = map(ended, pod)
  assert (lead.code, other.code) == (143, 143), (lead, other)
  assert f"SIGTERM: saved in {parts / 'checkpoints'}" in lead.err
  assert 8 not in epochs(parts, "generate")

  shutil.copytree(parts, moved)
  results = [ended(process) for process in start_pod(2, 2, *LONG, f"--workdir={parts}")]
  assert [result.code for result in results] == [0, 0], results
  assert sorted(set(epochs(parts, "generate"))) == list(range(1, 9))
  assert np.array_equal(delta_of(parts), delta_of(whole))
  # Eight epochs of a network in training turn the last bits of a sum into another delta, but the
  # run is the same one.
  assert ended(start_fork(*LONG, f"--workdir={moved}", **FOUR)).code == 0
  for name in ("source_loss", "objective"):
    np.testing.assert_allclose(history_of(moved)[name], history_of(whole)[name], rtol=0.02)


def test_a_signal_to_one_before_the_work_starts(start_pod, tmp_path):
  pod = start_pod(2, 1, *LONG, f"--workdir={tmp_path}")
  wait_until((tmp_path / "log.txt").exists, pod[1])
  pod[1].send_signal(signal.SIGINT)
  lead, other = map(ended, pod)
  assert (lead.code, other.code) == (130, 130), (lead, other)
  assert "SIGINT" in lead.err
  assert "Traceback" not in lead.err + other.err
  assert not (tmp_path / "poison").exists()


def sentences(results):
  return [result.sentence() for result in results]


def test_processes_that_disagree(fork_pod, tmp_path):
  flags = (*TINY, f"--workdir={tmp_path / 'run'}")
  told = sentences(fork_pod(flags, (*flags, "--config.method.steps=3")))
  for sentence in told:
    assert "Process 1 differs from process 0 in method.steps (2 there, 3 here)" in sentence
  assert "process 1 stopped" in told[0]
  told = sentences(fork_pod(flags, (*flags, "--mode=export")))
  assert all("--mode ('run' there, 'export' here)" in sentence for sentence in told)
  assert not (tmp_path / "run").exists()


def test_processes_that_see_other_images_or_another_folder(fork_pod, tmp_path):
  folders = [tmp_path / "0", tmp_path / "1"]
  for pixel, folder in enumerate(folders):
    folder.mkdir()
    images = np.full((20, 32, 32), pixel, np.uint8)
    labels = np.arange(20) % 2
    np.savez(folder / "a.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
  flags = ("--config=configs/npz.py", "--config.data.path=a.npz", "--mode=report")
  shared = (*flags, f"--workdir={tmp_path / 'run'}")
  told = sentences(fork_pod(shared, shared, folders=folders))
  assert all("the training images (" in sentence for sentence in told)
  assert all("differs from process 0 in" in sentence for sentence in told)
  shutil.copy(folders[0] / "a.npz", folders[1] / "a.npz")
  flags = ("--config=configs/npz.py:random", "--config.data.path=a.npz", "--mode=generate")
  private = (*flags, "--workdir=run")
  told = sentences(fork_pod(private, private, folders=folders))
  assert all("storage that all processes share" in sentence for sentence in told)


def test_a_mistake_of_one_process_ends_all(fork_pod, tmp_path):
  (tmp_path / "file").write_text("in the way")
  flags = [(*TINY, f"--workdir={tmp_path / name}") for name in ("run", "run", "file/run")]
  told = sentences(fork_pod(*flags))
  assert all(
    f"{tmp_path / 'file'}/run/config.json: Not a directory" in sentence for sentence in told
  )
  assert [sentence.startswith("miue-jax: process 2 stopped") for sentence in told] == [1, 1, 0]


@pytest.mark.parametrize("absent", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_processes_that_do_not_all_arrive(fork_pod, absent):
  flags = [(*TINY, "--distributed_timeout=3")] * 2
  flags[absent] = None
  began = time.monotonic()
  (sentence,) = sentences(fork_pod(*flags))
  assert time.monotonic() - began < 30  # of which jax adds some to the three
  assert "Not all processes met at 127.0.0.1:" in sentence
  assert ADVICE in sentence


def test_processes_that_are_to_connect_and_do_not_know_how(fork):
  assert "--distributed=off" in fork(*TINY, "--distributed=on").sentence()


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--config.devices=3"], "divisible|devices=3"),
    (["--config.devices=4"], "devices=4 but these 2 processes offer 8"),
    (["--config.devices=16"], "devices=16 but these 2 processes offer 8"),
  ],
)
def test_devices_that_do_not_spread_over_processes(fork_pod, tmp_path, flags, words):
  flags = (*TINY, *flags, f"--workdir={tmp_path}")
  for sentence in sentences(fork_pod(flags, flags)):
    assert any(word in sentence for word in words.split("|")), sentence


_SAVER = """
import pathlib, sys
import numpy as np
from miue_jax.machine import meshes, processes, sharding
from miue_jax.machine.checkpoint import Checkpoints
read = []
def squares(rows):
  read.extend(range(rows.start, rows.stop))
  return np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] ** 2
with processes.together("auto", 60):
  meshes.start(0, ())
  state = {
    "delta": sharding.shard_rows(squares, (20, 1)),
    "params": sharding.replicate(np.float32([1.5, -2.5])),
  }
  assert read == list(range(10) if processes.is_lead() else range(10, 20)), read
  expected = np.arange(20, dtype=np.float32)[:, None] ** 2
  for sharding._BLOCK_BYTES in (1, 32, 2**20):  # blocks of 1, 2 and all 5 rows of a device
    found = np.full_like(expected, -1)
    for rows, values in sharding.row_blocks(state["delta"], np.asarray, (1,)):
      found[rows] = values
    assert np.array_equal(found, expected) if processes.is_lead() else (found == -1).all()
  assert np.array_equal(sharding.fetch(state["delta"]), expected)
  Checkpoints(pathlib.Path(sys.argv[1])).save(7, state)
"""


@pytest.mark.slow
def test_two_processes_hold_and_save_their_own_rows_which_any_number_of_devices_restores(
  environment, use_devices, tmp_path
):
  saving = [
    subprocess.Popen(
      [sys.executable, "-c", _SAVER, tmp_path],
      env=environment | variables | {"JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": str(ROOT)},
      stderr=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    for variables in meeting(2)
  ]
  results = [ended(process) for process in saving]
  assert [result.code for result in results] == [0, 0], results
  for devices in (4, 1, 5):
    use_devices(devices)
    like = {
      "delta": sharding.shard(np.zeros((20, 1), np.float32)),
      "params": sharding.replicate(np.zeros(2, np.float32)),
    }
    position, state = Checkpoints(tmp_path).restore(like)
    assert position == 7
    assert len(state["delta"].sharding.device_set) == devices
    np.testing.assert_array_equal(np.ravel(jax.device_get(state["delta"])), np.arange(20.0) ** 2)
    np.testing.assert_array_equal(jax.device_get(state["params"]), [1.5, -2.5])
