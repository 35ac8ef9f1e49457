"""One command: poison, victims, measurement and report; a second one repeats nothing."""

import json
import re
import struct

import numpy as np
import pytest
from program import TINY, content
from tensorboardX.proto import event_pb2


def test_a_run_prints_the_table_and_leaves_its_files(finished):
  workdir, result = finished
  assert result.code == 0, result
  assert "Traceback" not in result.err
  header, _, *lines, place = result.out.splitlines()
  assert [column.strip() for column in header.split("|")[1:4]] == [
    "victim",
    "defence",
    "trained on",
  ]
  assert [line.split("|")[3].strip() for line in lines] == ["clean", "random", "miue"]
  assert place == f"Report: {workdir / 'report' / 'index.html'}"
  for name in (
    "config.json",
    "log.txt",
    "poison/delta.npy",
    "poison/manifest.json",
    "results.jsonl",
    "measurement.json",
    "report/index.html",
    "report/report.md",
    "report/report.json",
  ):
    assert (workdir / name).stat().st_size > 0, name
  assert not (workdir / "checkpoints" / "generate").exists()  # its result is stored elsewhere


def test_what_the_files_say_agrees(finished):
  workdir, _ = finished
  config = json.loads((workdir / "config.json").read_text())["config"]
  assert config["method"]["steps"] == 2
  assert config["data"]["max_train"] == 200
  delta = np.load(workdir / "poison" / "delta.npy", allow_pickle=False)
  assert (delta.dtype, delta.shape) == (np.int8, (200, 32, 32, 1))
  assert 0 < np.abs(delta.astype(int)).max() <= 8
  rows = [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]
  assert [(row["method"], row["seed"]) for row in rows] == [
    ("clean", 0),
    ("random", 0),
    ("miue", 0),
  ]
  report = json.loads((workdir / "report" / "report.json").read_text())
  assert report["rows"] == rows
  assert report["measurement"] == json.loads((workdir / "measurement.json").read_text())
  assert [row["method"] for row in report["measurement"]["rows"]] == ["clean", "random", "miue"]
  page = (workdir / "report" / "index.html").read_text()
  assert not re.search(r"(src|href)=\"?(https?:)?//", page)  # it opens without a network


def test_tensorboard_events_hold_the_learning_curves(finished):
  workdir, _ = finished
  scalars = {}
  for path in (workdir / "tensorboard").iterdir():
    stored, start = path.read_bytes(), 0
    while start < len(stored):  # length, its checksum, event, its checksum
      (length,) = struct.unpack_from("<Q", stored, start)
      event = event_pb2.Event.FromString(stored[start + 12 : start + 12 + length])
      start += length + 16
      for value in event.summary.value:
        scalars.setdefault(value.tag, {})[event.step] = value.simple_value
  rows = [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]
  for row in rows:
    for name in ("test_accuracy", "train_accuracy"):
      curve = scalars[f"{row['method']}_seed_0/{name}"]
      assert curve == pytest.approx(dict(enumerate(row["curve"][name], 1)), abs=1e-3)
  manifest = json.loads((workdir / "poison" / "manifest.json").read_text())
  history = dict(enumerate(manifest["history"]["objective"], 1))
  assert scalars["generate/objective"] == pytest.approx(history, abs=1e-4)


@pytest.mark.slow
def test_the_same_command_again_repeats_nothing(finished, run):
  workdir, first = finished
  before = content(workdir)
  log = (workdir / "log.txt").read_text()
  again = run(*TINY, f"--workdir={workdir}")
  assert (again.code, again.out) == (0, first.out)
  assert content(workdir) == before
  news = (workdir / "log.txt").read_text().removeprefix(log)
  assert "is finished" in news
  assert "epoch" not in news
