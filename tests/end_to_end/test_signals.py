"""A signal at any moment of any mode ends the program: none is lost."""

import os
import random
import shutil
import signal
import time

import pytest
from program import TINY, ended

# Products of a finished workdir that a mode makes again.
MODES = {
  "run": (),
  "generate": (),
  "evaluate": ("results.jsonl", "checkpoints", "measurement.json"),
  "measure": ("measurement.json",),
  "report": ("report",),
  "export": (),
  "restore": (),
  "plan": (),
  "compare": (),
  "pretrain": (),
}
FROM_NOTHING = ("run", "generate", "plan", "compare", "pretrain")
# Signals for each mode; ten of them show more, and take half an hour.
COUNT = int(os.environ.get("MIUE_TEST_SIGNALS", "1"))
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FEW = (
  "--config.compare.methods=('em',)",
  "--config.compare.recipes={'em': {'epochs': 1, 'model': {'width': 4}}}",
  "--config.compare.shared={'batch_size': 64, 'source': {'batch_size': 64}}",
  "--config.measure.projections=16",
)


@pytest.fixture
def prepared(fork, finished, tmp_path):
  """Returns `prepared(mode)`, which makes the flags of a mode that has work to do."""

  def prepare(mode):
    workdir = tmp_path / f"{time.monotonic_ns()}"
    if mode not in FROM_NOTHING:
      shutil.copytree(finished[0], workdir)
      for name in MODES[mode]:
        path = workdir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if mode == "restore":
      exported = fork(*TINY, f"--workdir={workdir}", "--mode=export")
      assert exported.code == 0, exported
    return (*TINY, *(FEW if mode == "compare" else ()), f"--workdir={workdir}", f"--mode={mode}")

  return prepare


def signalled(start, flags, signum, delay):
  """Sends a signal after a delay; returns the program's result and its seconds afterwards."""
  process = start(*flags)
  time.sleep(delay)
  if process.poll() is not None:
    return ended(process), None
  process.send_signal(signum)
  sent = time.monotonic()
  return ended(process), time.monotonic() - sent


def outcome(result, seconds, signum):
  """Returns how a program answered a signal."""
  if seconds is None:
    return "ended before"
  if result.code == 128 + signum:
    said = [line for line in result.err.splitlines() if signum.name in line]
    return "answered" if len(said) == 1 and "Traceback" not in result.err else "badly answered"
  if result.code == -signum:
    return "before the first instruction"
  # The work was done and Python was ending.
  return "ended meanwhile" if result.code == 0 and seconds < 0.5 else "lost"


def trials(start, prepared, mode, count, seed):
  """Returns the outcomes of signals at random moments of a mode."""
  began = time.monotonic()
  whole = ended(start(*prepared(mode)))
  assert whole.code == 0, whole
  longest, moments = time.monotonic() - began, random.Random(seed)
  found = []
  while len(found) < count:
    signum = SIGNALS[len(found) % len(SIGNALS)]
    result, seconds = signalled(start, prepared(mode), signum, moments.uniform(0, longest))
    name = outcome(result, seconds, signum)
    assert name not in ("lost", "badly answered"), (mode, seconds, result)
    found += [name] if name != "ended before" else []
    longest *= 0.9 if name == "ended before" else 1
  return found


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_no_signal_is_lost(start_fork, prepared, mode):
  found = trials(start_fork, prepared, mode, COUNT, f"{mode} 0")
  assert found.count("answered") >= 3 * (COUNT // 4)
