"""Measures the duration of the steps of a config on the current devices."""

import time

import jax
import numpy as np

from miue_jax.machine import loops, sharding
from miue_jax.plan.programs import Program


class Stopwatch:
  """Times one program, called as the stages call it.

  Pixels and labels are random, because the duration of a step does not depend on their values.

  Attributes:
    first_seconds: Seconds of the first step, compilation included.
    step_seconds: Seconds of a later step, by the latest measurement.
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
    """Returns the seconds of tracing and compilation, by which the first step took longer."""
    return max(self.first_seconds - self.step_seconds, 0.0)

  def measure(self, seconds: float) -> float:
    """Runs steps for about `seconds` and returns, and stores, the seconds of one step."""
    steps = max(1, round(seconds / self.step_seconds))
    self.step_seconds = self.seconds(steps) / steps
    return self.step_seconds

  def seconds(self, steps: int) -> float:
    """Runs `steps` steps, pass after pass, and returns their seconds."""
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
    """Predicts one batch as `prediction` does: sends images, fetches features and logits."""
    outputs = self._program.function(self._variables, sharding.shard(self._images))
    jax.tree.map(np.asarray, outputs)
