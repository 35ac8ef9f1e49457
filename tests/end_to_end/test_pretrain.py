"""A victim that starts from a network trained on other digits."""

import json

import numpy as np
import pytest
from program import TINY, content

DIGITS = (
  *TINY,
  "--config.data.max_train=0",
  "--config.victim.width=8",
  "--config.method.source.batch_size=128",
  "--config.method.epochs=1",
  "--config.method.steps=1",
)
FIRST = "--config.data.classes=('0', '1', '2', '3', '4')"
OTHERS = "--config.data.classes=('5', '6', '7', '8', '9')"
CLEAN = "--config.evaluate.conditions=('clean',)"


@pytest.fixture(scope="module")
def weights(run, tmp_path_factory):
  """Weights of a victim of the first five digits."""
  folder = tmp_path_factory.mktemp("pretrained")
  path = folder / "five.npz"
  flags = (*DIGITS, FIRST, "--config.victim_fit.epochs=12", "--config.victim_fit.batch_size=32")
  flags += ("--mode=pretrain", f"--workdir={folder / 'run'}")
  result = run(*flags, f"--output={path}")
  assert result.code == 0, result
  assert result.out.strip().endswith(f"% clean test accuracy: {path}")
  before = path.read_bytes()
  again = run(*flags)  # without --output into the workdir, from the state of the finished training
  assert again.out.strip().endswith(f"accuracy: {folder / 'run' / 'pretrained.npz'}")
  assert (folder / "run" / "pretrained.npz").read_bytes() == before
  return path


def rows(workdir):
  return [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]


@pytest.mark.long
def test_it_starts_with_what_was_learned_of_other_classes(run, weights, tmp_path):
  found = {}
  for name, flags in {
    "fresh": (),
    "started": (f"--config.victim_fit.start_from={weights}",),
  }.items():
    # Steps too small for a network that has to learn everything.
    flags += (CLEAN, "--config.victim_fit.learning_rate=0.01")
    result = run(*DIGITS, OTHERS, *flags, f"--workdir={tmp_path / name}")
    assert result.code == 0, result
    (found[name],) = rows(tmp_path / name)
  assert found["fresh"]["victim"] == "small_cnn"
  assert found["started"]["victim"] == "small_cnn from five"
  last = {name: row["curve"]["train_loss"][-1] for name, row in found.items()}
  assert last["started"] < last["fresh"] - 0.2
  page = (tmp_path / "started" / "report" / "report.md").read_text()
  assert "small_cnn from five" in page


@pytest.mark.long
def test_the_benchmark_names_it_and_refuses_other_networks(run, fork, weights, tmp_path):
  flags = (*DIGITS, OTHERS, f"--config.victim_fit.start_from={weights}", "--mode=compare")
  flags += ("--config.compare.methods=('random',)", "--config.compare.seeds=(0,)")
  sentence = fork(
    *flags, "--config.compare.victims=('small_cnn', 'lenet5')", f"--workdir={tmp_path / 'refused'}"
  ).sentence()
  assert "The pretrained network does not match" in sentence
  assert not (tmp_path / "refused" / "results.jsonl").exists()
  result = run(*flags, f"--workdir={tmp_path / 'table'}")
  assert result.code == 0, result
  assert "victim small_cnn from five" in result.out
  assert {row["victim"] for row in rows(tmp_path / "table")} == {"small_cnn from five"}
  before = content(tmp_path / "table")
  assert run(*flags, f"--workdir={tmp_path / 'table'}").code == 0
  after = content(tmp_path / "table")
  assert after["results.jsonl"] == before["results.jsonl"]


@pytest.mark.parametrize("kind", ["missing", "other"])
def test_what_it_cannot_start_from_is_said_before_any_work(fork, tmp_path, kind):
  path = tmp_path / "weights.npz"
  if kind == "other":
    np.savez(path, x=np.ones(3))
  sentence = fork(*TINY, f"--config.victim_fit.start_from={path}", f"--workdir={tmp_path / 'w'}")
  assert "--mode=pretrain wrote" in sentence.sentence()
  assert not (tmp_path / "w" / "poison").exists()


def test_weights_are_not_written_over_other_files(fork, tmp_path):
  path = tmp_path / "taken.npz"
  path.write_bytes(b"mine")
  result = fork(*TINY, "--mode=pretrain", f"--output={path}", f"--workdir={tmp_path / 'w'}")
  assert f"{path} exists" in result.sentence()
  assert path.read_bytes() == b"mine"
