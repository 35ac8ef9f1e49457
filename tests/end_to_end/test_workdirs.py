"""A workdir knows its settings, belongs to one program at a time, and is left clean."""

import json
import shutil
import signal

import numpy as np
import pytest
from program import TINY, content, ended, wait_until


@pytest.mark.parametrize("mode", ["export", "report", "run", "measure", "evaluate", "generate"])
def test_the_workdir_alone_is_enough(fork, workdir, mode):
  before = content(workdir)
  result = fork(f"--workdir={workdir}", f"--mode={mode}")
  assert result.code == 0, result
  after = content(workdir)
  made = ("images/", "report/", ".locks/", "poison/published.npz")
  changed = {name for name in before | after if before.get(name) != after.get(name)}
  assert all(name.startswith(made) for name in changed), changed


def test_the_key_alone_knows_its_settings(fork, workdir):
  for path in workdir.iterdir():
    if path.name != "poison":
      shutil.rmtree(path) if path.is_dir() else path.unlink()
  assert fork(f"--workdir={workdir}", "--mode=export").code == 0
  sentence = fork(f"--workdir={workdir}", "--mode=export", "--config.method.steps=3").sentence()
  assert "method.steps (2 there, 3 here)" in sentence


def test_what_changes_no_result_may_change(fork, workdir):
  before = content(workdir / "poison")
  result = fork(
    f"--workdir={workdir}",
    "--config.devices=1",
    "--config.data.memory=0.5",
    "--config.method.microbatch=32",
    "--config.victim_fit.checkpoint_every=1",
  )
  assert result.code == 0, result
  assert content(workdir / "poison") == before


@pytest.mark.parametrize(
  ("flag", "words"),
  [
    ("--config.method.steps=3", "method.steps (2 there, 3 here)"),
    ("--config.victim_fit.epochs=3", "victim_fit.epochs (2 there, 3 here)"),
    ("--config.measure.bins=8", "measure.bins (16 there, 8 here)"),
    ("--config.data.seed=1", "data.seed (0 there, 1 here)"),
  ],
)
def test_what_changes_a_result_is_refused_by_name(fork, workdir, flag, words):
  before = content(workdir)
  assert words in fork(f"--workdir={workdir}", flag).sentence()
  assert content(workdir) == before


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--config.data.max_train=40"], ["source.batch_size=64", "victim_fit.batch_size=64", "40"]),
    (["--config.devices=5"], ["source.batch_size=64", "method.batch_size=64", "5 devices"]),
    (["--config.data.path=pics"], ["'pics'", "configs/folder.py"]),
    (["--config.measure.layers=('none',)"], ["none"]),
    (["--mode=evaluate"], ["no complete poison"]),
    (["--mode=export"], ["no complete poison"]),
    (["--config.evaluate.defences=('none', 'magic')"], ["magic"]),
  ],
)
def test_a_refused_run_leaves_nothing(fork, tmp_path, flags, words):
  sentence = fork(*TINY, f"--workdir={tmp_path / 'a' / 'run'}", *flags).sentence()
  assert all(word in sentence for word in words), sentence
  assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_the_advice_of_a_refusal_helps(fork, tmp_path):
  flags = [*TINY, "--mode=generate", f"--workdir={tmp_path / 'run'}", "--config.data.max_train=40"]
  sentence = fork(*flags).sentence()
  assert "--config.method.source.batch_size=64 is more than the 40 training images" in sentence
  assert "victim_fit" not in sentence  # `generate` trains no victim
  assert fork(*flags, "--config.method.source.batch_size=32").code == 0


@pytest.mark.long
def test_a_second_program_is_told_who_works_there(start_fork, fork, tmp_path):
  flags = [*TINY, "--config.method.epochs=500", f"--workdir={tmp_path / 'run'}"]
  first = start_fork(*flags)
  wait_until((tmp_path / "run" / "checkpoints" / "generate").exists, first)
  for mode in ("run", "evaluate", "export"):
    sentence = fork(*flags, f"--mode={mode}").sentence()
    assert "is in use by another program (process " in sentence
  assert fork(*flags, "--mode=report").code == 0
  first.send_signal(signal.SIGTERM)
  assert ended(first).code == 143


def test_an_export_starts_anew_by_itself(fork, workdir):
  for _ in range(2):
    assert fork(f"--workdir={workdir}", "--mode=export").code == 0
    assert fork(f"--workdir={workdir}", "--mode=restore").code == 0
  assert not [path.name for path in workdir.iterdir() if path.name.startswith((".images", ".rest"))]


def test_leftovers_of_a_kill_are_removed_by_the_next_run(start_fork, fork, workdir):
  process = start_fork(f"--workdir={workdir}", "--mode=export")
  wait_until(lambda: list(workdir.glob(".images-*")) or process.poll() is not None, process)
  process.kill()
  ended(process)
  (workdir / ".config.json.123").write_text("")
  assert fork(f"--workdir={workdir}", "--mode=generate").code == 0
  assert not list(workdir.glob(".images-*"))
  assert not (workdir / ".config.json.123").exists()


def test_rows_of_an_npz_without_test_images_are_known(fork, tmp_path):
  rng = np.random.default_rng(0)
  x, y = rng.integers(0, 256, (100, 8, 8), np.uint8), np.arange(100) % 2
  np.savez(tmp_path / "mine.npz", x_train=x, y_train=y)
  result = fork(
    "--config=configs/npz.py:random",
    f"--config.data.path={tmp_path / 'mine.npz'}",
    f"--workdir={tmp_path / 'run'}",
    "--config.data.size=0",
    "--config.victim.name=linear",
    "--mode=generate",
  )
  assert result.code == 0, result
  exported = fork(f"--workdir={tmp_path / 'run'}", "--mode=export", "--format=npz")
  assert exported.code == 0, exported
  rows = json.loads((tmp_path / "run" / "poison" / "manifest.json").read_text())["source_rows"]
  delta = np.load(tmp_path / "run" / "poison" / "delta.npy")[..., 0]
  with np.load(tmp_path / "run" / "images" / "poisoned.npz") as archive:
    assert len(rows) == 80
    assert np.array_equal(archive["x_train"][..., 0], x[rows] + delta)
    assert np.array_equal(archive["y_train"], y[rows])
