"""Log lines, TensorBoard files and progress bars of long runs."""

import io
import logging
import subprocess
import sys

import pytest
from absl import flags
from absl import logging as absl_logging
from tqdm import auto

from miue_jax.machine import progress

SCALARS = {"loss": 0.51234, "accuracy": 93.0}


@pytest.fixture
def clock(monkeypatch):
  """Returns a list whose last item is the time in seconds."""
  times = [0.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: times[-1])
  return times


def lines(caplog):
  return [record.getMessage() for record in caplog.records if record.name.startswith("miue_jax")]


def test_an_epoch_is_logged_with_rate_and_remaining_time(tmp_path, clock, caplog):
  caplog.set_level("INFO", logger="miue_jax")
  reporter = progress.Progress(tmp_path, "victim", 40, 4, 10)
  clock.append(5.0)
  reporter.tick(15)
  reporter.report(20, 2, SCALARS)
  reporter.close()
  assert lines(caplog) == [
    "victim: epoch 2/4  loss 0.5123  accuracy 93  2 steps/s  ETA 0:00:10",
  ]


def test_a_step_is_logged_after_a_silence(tmp_path, clock, caplog):
  caplog.set_level("INFO", logger="miue_jax")
  reporter = progress.Progress(None, "victim", 100, 1, 0)
  for now, step in ((29.0, 10), (31.0, 31), (60.0, 50), (62.0, 62)):
    clock.append(now)
    reporter.tick(step)
  assert lines(caplog) == [
    "victim: step 31/100  1 steps/s  ETA 0:01:09",
    "victim: step 62/100  1 steps/s  ETA 0:00:38",
  ]


def test_without_a_folder_no_file_is_written(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  reporter = progress.Progress(None, "victim", 4, 1, 0)
  reporter.tick(2)
  reporter.report(4, 1, SCALARS)
  reporter.close()
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ("name", "suffix", "tag"),
  [
    ("victim seed 0", ".victim-seed-0", b"victim_seed_0/accuracy"),
    ("ours/v2 seed 0", ".ours-v2-seed-0", b"ours/v2_seed_0/accuracy"),
  ],
)
def test_scalars_go_to_tensorboard(tmp_path, name, suffix, tag):
  reporter = progress.Progress(tmp_path / "events", name, 4, 1, 0)
  reporter.report(4, 1, SCALARS)
  reporter.close()
  (file,) = (tmp_path / "events").iterdir()
  assert file.name.endswith(suffix)
  assert tag in file.read_bytes()


def test_a_bar_shows_steps_and_scalars_when_it_is_asked_for(capsys, monkeypatch):
  reporter = progress.Progress(None, "victim", 8, 2, 0)
  reporter.report(4, 1, SCALARS)
  reporter.close()
  assert capsys.readouterr().err == ""
  screen = io.StringIO()
  tqdm = auto.tqdm
  monkeypatch.setattr(auto, "tqdm", lambda **options: tqdm(file=screen, mininterval=0, **options))
  reporter = progress.Progress(None, "victim", 8, 2, 4, bar=True)
  reporter.tick(6)
  reporter.report(8, 2, SCALARS)
  reporter.close()
  assert "victim" in screen.getvalue()
  assert "8/8" in screen.getvalue()
  assert "loss=0.5123" in screen.getvalue()


def test_counts_are_logged_with_rate_and_remaining_time(monkeypatch, caplog):
  monkeypatch.setattr(progress, "_COUNT_SECONDS", 0)
  # One second for each of three chunks of 64, 64 and 22 images.
  clock = iter([0.0, 1.0, 2.0, 3.0])
  monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
  caplog.set_level("INFO", logger="miue_jax")
  progress.count("decoded", [64, 64, 22], 150)
  assert lines(caplog) == [
    "decoded 64 of 150 images, 64 images/s, 1 s left",
    "decoded 128 of 150 images, 64 images/s, 0 s left",
    "decoded 150 of 150 images, 50 images/s, 0 s left",
  ]


@pytest.fixture
def parsed_flags():
  """Lets absl's handlers write: before flags are parsed, they write everything to stderr."""
  flags.FLAGS.mark_as_parsed()
  yield
  flags.FLAGS.unparse_flags()


@pytest.mark.usefixtures("parsed_flags")
def test_the_log_file_has_the_lines_of_this_package_and_warnings_of_others(tmp_path, monkeypatch):
  root = logging.getLogger()
  monkeypatch.setattr(root, "level", logging.INFO)
  terminal = absl_logging.get_absl_handler().python_handler
  filters = list(terminal.filters)
  try:
    with progress.logged_to(tmp_path / "log.txt"):
      progress.Progress(None, "victim", 4, 1, 0).report(4, 1, {})
      logging.getLogger("library").info("chatter")
      logging.getLogger("library").warning("disk is slow")
  finally:
    terminal.filters = filters
  ours, theirs = (tmp_path / "log.txt").read_text().splitlines()
  assert ours.startswith("I")
  assert " progress.py:" in ours
  assert "] victim: epoch 1/1" in ours
  assert theirs.startswith("W")
  assert theirs.endswith("] disk is slow")


def test_the_library_prints_nothing():
  program = """
import logging
import miue_jax
logging.getLogger("miue_jax.data").warning("not for the terminal")
logging.getLogger("miue_jax.data").info("nor this")
"""
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
  assert done.stdout == done.stderr == ""
