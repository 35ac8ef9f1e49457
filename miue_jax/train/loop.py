"""Drives all long work: segments of steps, with resume, progress, a clock, signals, checkpoints."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from miue_jax.machine import sharding, signals
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.progress import Reporter

# Takes the number of steps that a segment has done; called after every dispatch.
Tick = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Segment:
  """A run of steps without a decision between them.

  Attributes:
    epoch: Number of the epoch that the segment belongs to, from 1.
    steps: Number of steps.
    run: Takes steps `first` to `steps` and returns the state and the number of steps done, which is
      smaller after a signal: `(state, first, steps, tick) -> (state, done)`.
    finish: Reads the sums of the steps, `state -> (state, scalars)`. The scalars are reported;
      None reports nothing.
    save: Whether a checkpoint follows.
  """

  epoch: int
  steps: int
  run: Callable[[Any, int, int, Tick], tuple[Any, int]]
  finish: Callable[[Any], tuple[Any, dict[str, float] | None]]
  save: bool = False


def drive(
  state: Any,
  segments: Sequence[Segment],
  *,
  name: str,
  checkpoints: Checkpoints,
  progress: Reporter,
  finished: Callable[[Any], bool] = lambda state: False,
) -> Any:
  """Runs all segments, from the last checkpoint if there is one, and returns the final state.

  Args:
    state: Initial state, a pytree with `replace` and a scalar `seconds` on every device, the time
      spent in this and all earlier runs. It also gives the shapes and shardings of a checkpoint.
    segments: All segments of the work.
    name: Name of the work for the log.
    checkpoints: Where the states are stored.
    progress: Returns the object that reports progress.
    finished: Returns whether to stop early; called at the start and after every report.

  Returns:
    The final state.

  Raises:
    signals.Interrupted: A signal arrived; the state has been saved.
    UserError: A loss is not finite, or a file cannot be written.
  """
  position, state = checkpoints.restore(state) or (0, state)
  total, epochs = sum(segment.steps for segment in segments), segments[-1].epoch
  report = progress(name, total, epochs, position)
  before, began = float(state.seconds), time.monotonic()

  def timed(state: Any) -> Any:
    seconds = np.float32(before + time.monotonic() - began)
    return state.replace(seconds=sharding.replicate(seconds))

  start, stop = 0, finished(state)
  with contextlib.closing(report), signals.stop_on_signal():
    for segment in segments:
      first, start = start, start + segment.steps
      if stop or start <= position:
        continue
      state, done = segment.run(
        state,
        position - first,
        segment.steps,
        lambda index, first=first: report.tick(first + index),
      )
      position = first + done
      if done < segment.steps:
        checkpoints.save(position, timed(state))
        signum = signals.received()
        assert signum is not None, "only a signal ends a segment early"
        raise signals.Interrupted(signum)
      state, scalars = segment.finish(state)
      state = timed(state)
      if scalars is not None:
        report.report(position, segment.epoch, scalars)
        stop = finished(state)
      if stop or segment.save:
        checkpoints.save(position, state)
  return state


def recorded(history: jax.Array, row: int, values: Any, columns: Any = slice(None)) -> jax.Array:
  """Returns a replicated history `[rows, columns]` with entries of one row replaced."""
  changed = np.array(sharding.fetch(history))
  changed[row, columns] = values
  return sharding.replicate(changed)


def no_history(rows: int, columns: int, fill: float = np.nan) -> jax.Array:
  """Returns an empty history, float32 `[rows, columns]` on every device."""
  return sharding.replicate(np.full((rows, columns), fill, np.float32))
