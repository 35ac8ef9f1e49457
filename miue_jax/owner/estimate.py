"""Estimates time and memory of a protection from a few real steps on this machine."""

import dataclasses
import os
import time
from collections.abc import Sequence

from miue_jax.machine import meshes
from miue_jax.owner import load
from miue_jax.owner.choose import HELD_OUT, PROOF_SIZE, SIZE, Choice, Victim
from miue_jax.pictures.survey import Found
from miue_jax.plan import plan, programs
from miue_jax.plan.sizes import Sizes
from miue_jax.plan.stopwatch import Stopwatch
from miue_jax.settings.config import Config, batch_sizes

_SECONDS = 1.0  # of steps of each program, after their compilation
_SAMPLE = 4  # pictures that are read
_PROGRAM = 9e8  # bytes of Python, jax and compiled programs


@dataclasses.dataclass(frozen=True)
class Estimate:
  """What a protection takes on this machine.

  Attributes:
    making: Seconds until the perturbations are made.
    proving: Seconds of the victims.
    files: Seconds of reading and writing pictures.
    memory: Bytes of memory, at most.
  """

  making: float
  proving: float
  files: float
  memory: float

  @property
  def seconds(self) -> float:
    """Seconds of everything."""
    return self.making + self.proving + self.files

  def of_epochs(self, before: Choice, after: Choice) -> "Estimate":
    """Returns the estimate of a choice that differs from the estimated one in its epochs."""
    epochs = [sum(victim.epochs for victim in choice.victims) for choice in (after, before)]
    return dataclasses.replace(
      self,
      making=self.making * after.method.epochs / before.method.epochs,
      proving=self.proving * epochs[0] / epochs[1],
    )

  def describe(self) -> str:
    """Returns the estimate in words."""
    return (
      f"Making the perturbation takes {duration(self.making)}, the proof {duration(self.proving)}, "
      f"reading and writing {duration(self.files)}; memory: up to {self.memory / 1e9:.1f} GB."
    )


def start(choice: Choice, count: int) -> None:
  """Starts all devices that divide the batches; must come before any other use of jax."""
  sizes = {choice.fit(victim, _learning(count)).batch_size for victim in choice.victims}
  meshes.start(0, (*batch_sizes(choice.method), *sizes))


def estimate(
  choice: Choice, root: str | os.PathLike, pictures: Sequence[Found], classes: int
) -> Estimate:
  """Returns what a protection takes, from steps on random pixels and a few pictures."""
  count, learning = len(pictures), _learning(len(pictures))
  config = choice.config(choice.victims[0], learning)
  # A program needs one full batch; how many steps there are is counted apart.
  making = Sizes((SIZE, SIZE, 3), max(count, *config.batch_sizes), 1, classes)
  proving = Sizes((PROOF_SIZE, PROOF_SIZE, 3), making.train, 1, classes)
  timings, held = _timed(config, making, None)
  seconds = {}
  for victim in choice.victims:
    if victim.network not in seconds:
      step, _ = _timed(choice.config(victim, learning), proving, "victim")
      seconds[victim.network] = step["victim"]
  conditions = 2
  proof = sum(
    conditions * victim.epochs * seconds[victim.network].step * _steps(choice, victim, learning)
    + conditions * seconds[victim.network].compile
    for victim in choice.victims
  )
  totals = {name: program.total for name, program in _programs(config, making).items()}
  made = plan.seconds(timings, {name: totals[name] for name in timings})
  pixels = count * 3 * 4 * (SIZE**2 + PROOF_SIZE**2)
  return Estimate(made, proof, _reading(root, pictures), held + pixels + _PROGRAM)


def _learning(count: int) -> int:
  """Returns how many pictures the victims of the proof learn from."""
  return count - round(HELD_OUT * count)


def _steps(choice: Choice, victim: Victim, learning: int) -> int:
  return max(1, learning // choice.fit(victim, learning).batch_size)


def _programs(config: Config, size: Sizes) -> dict[str, programs.Program]:
  return programs.build(config, size)


def _timed(config: Config, size: Sizes, only: str | None) -> tuple[dict[str, plan.Timing], float]:
  """Returns the timing of each program of the generation, or of one, and its bytes."""
  few = dataclasses.replace(size, train=min(size.train, 2 * max(config.batch_sizes)))
  built = programs.build(config, few)
  names = [only] if only else programs.generation(built)
  timings = {}
  for name in names:
    watch = Stopwatch(built[name])
    timings[name] = plan.Timing(watch.measure(_SECONDS), watch.compile_seconds)
  if only:
    return timings, 0.0
  full = programs.build(config, size)
  held = max(sum(plan.resident(full[name]).values()) for name in names)
  return timings, held + full["delta"].cost().temporaries if "delta" in full else held


def _reading(root: str | os.PathLike, pictures: Sequence[Found]) -> float:
  """Returns the seconds of reading, publishing and reading again, from a few pictures."""
  sample = pictures[:: max(1, len(pictures) // _SAMPLE)][:_SAMPLE]
  began = time.monotonic()
  load.load(root, sample, SIZE, PROOF_SIZE, quiet=True)
  return 4 * (time.monotonic() - began) * len(pictures) / len(sample)


def duration(seconds: float) -> str:
  """Returns a time in words, such as "about 25 minutes"."""
  for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
    if seconds >= 1.5 * length or (unit == "minute" and seconds >= 50):
      number = max(1, round(seconds / length))
      return f"about {number} {unit}{'s' if number != 1 else ''}"
  return "less than a minute"
