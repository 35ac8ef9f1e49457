"""Tests the driver with a toy state: resume, kills between segments, early stop, signals."""

import itertools
import types

import flax.struct
import jax
import numpy as np
import pytest

from miue_jax.machine import loops, sharding, signals
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.train import loop

STEPS, EPOCHS = (3, 2), 4  # steps of the two segments of an epoch
TOTAL = EPOCHS * sum(STEPS)


@flax.struct.dataclass
class State:
  """A number that every step changes, and its value after every epoch."""

  number: jax.Array
  history: jax.Array
  seconds: jax.Array


def advance(number, slope, index):
  """Depends on the order of all steps, so that a lost or repeated one changes the result."""
  return slope * number + index + 1


class KillError(Exception):
  """Stands for a kill, after which nothing runs."""


@pytest.fixture
def drive(tmp_path, use_devices, reporter):
  """Returns `drive(...)`: the final state, and the position at which the run started."""
  use_devices(2)
  run_steps = loops.repeated(advance)

  def run(folder="run", *, stop_at=None, kill=None, save=(True, True), finished=None, seen=None):
    def segment(epoch, part):
      def run(state, first, stop, tick):
        slope = sharding.replicate(np.float32(0.5 + part))
        number, done = run_steps(state.number, slope, first, stop, tick=tick)
        return state.replace(number=number), done

      def finish(state):
        if kill == (epoch, part):
          raise KillError
        if part == 0:
          return state, None
        value = float(state.number)
        history = loop.recorded(state.history, epoch - 1, value)
        return state.replace(history=history), {"number": value}

      return loop.Segment(epoch, STEPS[part], run, finish, save[part])

    started = []

    def progress(*arguments):
      started.append(arguments)
      return seen if seen is not None else reporter(stop_at)(*arguments)

    state = loop.drive(
      State(
        sharding.replicate(np.float32(1)),
        loop.no_history(EPOCHS, 1),
        sharding.replicate(np.float32(0)),
      ),
      [segment(epoch, part) for epoch in range(1, EPOCHS + 1) for part in (0, 1)],
      name="toy",
      checkpoints=Checkpoints(tmp_path / folder),
      progress=progress,
      **({"finished": finished} if finished else {}),
    )
    ((name, steps, epochs, start),) = started
    assert (name, steps, epochs) == ("toy", TOTAL, EPOCHS)
    return state, start

  return run


def expected_history():
  number, history = np.float32(1), []
  for _ in range(EPOCHS):
    for part, steps in enumerate(STEPS):
      for index in range(steps):
        number = np.float32(np.float32(0.5 + part) * number + np.float32(index + 1))
    history.append(number)
  return history


def test_all_segments_run_in_order(drive):
  state, start = drive()
  assert start == 0
  np.testing.assert_allclose(state.history[:, 0], expected_history(), rtol=1e-6)
  assert float(state.number) == float(state.history[-1, 0])
  assert float(state.seconds) > 0


def test_every_step_ticks_and_every_epoch_reports(drive, reporter):
  seen = reporter()("", 0, 0, 0)
  state, _ = drive(seen=seen)
  assert [call.args[0] for call in seen.tick.call_args_list] == list(range(1, TOTAL + 1))
  assert [call.args for call in seen.report.call_args_list] == [
    (epoch * sum(STEPS), epoch, {"number": float(state.history[epoch - 1, 0])})
    for epoch in range(1, EPOCHS + 1)
  ]
  seen.close.assert_called_once_with()


@pytest.mark.slow
@pytest.mark.parametrize("stops", [(1,), (3,), (5,), (2, 4, 8, 19), (TOTAL,)])
def test_a_signal_saves_the_step_and_the_run_continues_from_there(drive, stops):
  expected, _ = drive("whole")
  for stop in stops:
    with pytest.raises(signals.Interrupted, match="SIGTERM"):
      drive("parts", stop_at=stop)
  resumed, start = drive("parts")
  assert start == stops[-1]
  assert resumed.number == expected.number
  np.testing.assert_array_equal(resumed.history, expected.history)


@pytest.mark.slow
@pytest.mark.parametrize("save", [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize("kill", [(1, 0), (1, 1), (3, 0), (3, 1)])
def test_a_kill_before_a_checkpoint_loses_the_work_since_the_last_one(drive, save, kill):
  expected, _ = drive("whole")
  with pytest.raises(KillError):
    drive("parts", kill=kill, save=save)
  resumed, start = drive("parts", save=save)
  before = [
    (epoch - 1) * sum(STEPS) + sum(STEPS[: part + 1])
    for epoch in range(1, EPOCHS + 1)
    for part in (0, 1)
    if save[part] and (epoch, part) < kill
  ]
  assert start == max(before, default=0)
  assert resumed.number == expected.number
  np.testing.assert_array_equal(resumed.history, expected.history)


def test_the_clock_counts_all_sittings(drive, monkeypatch):
  now = itertools.count()
  monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: next(now)))
  with pytest.raises(signals.Interrupted):
    drive(stop_at=7)
  state, _ = drive()
  # The clock is read once for each of the 2 segments before the signal, once when it came, and once
  # for each of the 6 segments after the resume; every reading is a second later.
  assert float(state.seconds) == 3 + 6


def test_a_finished_run_is_not_repeated(drive):
  first, _ = drive()
  again, start = drive(kill=(1, 0))
  assert start == TOTAL
  assert again.number == first.number
  assert again.seconds == first.seconds


def test_a_run_that_is_done_early_ends_and_stays_so(drive):
  def enough(state):
    return bool(np.sum(~np.isnan(sharding.fetch(state.history))) >= 2)

  whole, _ = drive("whole")
  for _ in range(2):
    state, start = drive("early", finished=enough, save=(False, False))
    assert float(state.number) == float(whole.history[1, 0])
    assert np.isnan(state.history[:, 0]).tolist() == [False, False, True, True]
  assert start == 2 * sum(STEPS)  # the end was saved


def test_a_history_row_is_replaced_on_every_device(use_devices):
  use_devices(2)
  history = loop.no_history(3, 4)
  history = loop.recorded(history, 1, [5, 6], slice(1, 3))
  assert history.sharding.is_fully_replicated
  expected = np.full((3, 4), np.nan)
  expected[1, 1:3] = 5, 6
  np.testing.assert_array_equal(history, expected)
  whole = loop.recorded(loop.no_history(2, 1, fill=0), 0, 3.5)
  np.testing.assert_array_equal(whole, [[3.5], [0.0]])
