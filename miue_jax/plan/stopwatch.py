"""How long the steps of a config take on the devices at hand."""

import statistics
import time
from collections.abc import Sequence

import jax
import numpy as np

from miue_jax.machine import loops, sharding
from miue_jax.plan.programs import Program


class Stopwatch:
  """Runs one program as the stages run it and takes the time.

  Pixels and labels are random: no step takes longer for one value than for another.

  Attributes:
    first_seconds: of the first step, compilation included.
    step_seconds: of a later step, as far as known.
  """

  def __init__(self, program: Program, seed: int = 0):
    """Compiles the program and runs two steps."""
    self._program, self._index = program, 0
    arguments = program.concrete(seed)
    if program.step is None:
      self._variables, images = arguments
      self._images = np.asarray(images)
    else:
      self._carry, self._constants, _ = arguments
      self._run = loops.repeated(program.step)
    self.first_seconds = self.seconds(1)
    self.step_seconds = self.seconds(1)

  @property
  def compile_seconds(self) -> float:
    """What the first step took longer: tracing and compilation."""
    return max(self.first_seconds - self.step_seconds, 0.0)

  def measure(self, seconds: float) -> float:
    """Seconds per step over about that many seconds; remembers it."""
    steps = max(1, round(seconds / self.step_seconds))
    self.step_seconds = self.seconds(steps) / steps
    return self.step_seconds

  def seconds(self, steps: int) -> float:
    """Runs so many steps, pass after pass, and returns the seconds they took."""
    began = time.perf_counter()
    if self._program.step is None:
      for _ in range(steps):
        self._predict()
      return time.perf_counter() - began
    while steps:
      stop = min(self._index + steps, self._program.steps)
      self._carry, reached = self._run(self._carry, self._constants, self._index, stop)
      steps -= reached - self._index
      self._index = reached % self._program.steps
    jax.block_until_ready(self._carry)
    return time.perf_counter() - began

  def _predict(self) -> None:
    """One batch of `fit.Predictor`: images go to the devices, features and logits come back."""
    outputs = self._program.function(self._variables, sharding.shard(self._images))
    jax.tree.map(np.asarray, outputs)


def spread(values: Sequence[float]) -> dict[str, float]:
  """Median and range."""
  return {"median": statistics.median(values), "low": min(values), "high": max(values)}
