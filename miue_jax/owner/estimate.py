"""Estimates time and memory of a protection from a few real steps on this machine."""

import collections
import contextlib
import dataclasses
import os
import pathlib
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from miue_jax.machine import files, memory, meshes
from miue_jax.owner import choose, generate, load
from miue_jax.owner.choose import LEAST, Choice, Victim
from miue_jax.pictures.survey import Found
from miue_jax.plan import plan, programs
from miue_jax.plan.sizes import Sizes
from miue_jax.plan.stopwatch import Stopwatch
from miue_jax.settings.config import batch_sizes
from miue_jax.settings.errors import UserError

_SECONDS = 1.0  # of steps of each program, after their compilation
_SAMPLE = 4  # pictures that are read
_CONDITIONS = 2  # a victim trains on originals and on published files
# Bytes that the compilation of the victims takes in addition to that of the source model
# (docs/folders.md); compiling them here would take longer than many protections.
_VICTIMS = 6e8


@dataclasses.dataclass(frozen=True)
class Estimate:
  """States the time and memory that a protection takes on this machine.

  Attributes:
    making: Seconds of the steps that make the perturbations.
    proving: Seconds of the steps of the victims; 0 if a class is too small for a test.
    compiling: Seconds of compiling the programs.
    files: Seconds of reading and writing pictures.
    memory: Bytes of memory, at most.
  """

  making: float
  proving: float
  compiling: float
  files: float
  memory: float

  @property
  def seconds(self) -> float:
    """Returns the total time in seconds."""
    return self.making + self.proving + self.compiling + self.files

  def of_epochs(self, before: Choice, after: Choice) -> "Estimate":
    """Returns the estimate of a choice that differs from the estimated one in its epochs."""
    epochs = [sum(victim.epochs for victim in choice.victims) for choice in (after, before)]
    return dataclasses.replace(
      self,
      making=self.making * after.method.epochs / before.method.epochs,
      proving=self.proving * epochs[0] / epochs[1],
    )

  def stored(self, pictures: int) -> dict[str, float]:
    """Returns JSON values for `of_additions`; `pictures` is the number that the estimate is for."""
    return dataclasses.asdict(self) | {"pictures": pictures}

  def describe(self, work: str = "Protecting") -> str:
    """Returns the estimate in words, with the time of all `work` first."""
    test = f"the test {duration(self.proving)}, " if self.proving else ""
    return (
      f"{work} takes {duration(self.seconds)}. "
      f"Making the perturbation takes {duration(self.making)}, {test}"
      f"compiling programs {duration(self.compiling)}, reading and writing {duration(self.files)}; "
      f"memory: up to {self.memory / 1e9:.1f} GB."
    )


def of_additions(
  values: Mapping[str, Any], choice: Choice, new: int, company: int, total: int
) -> Estimate | None:
  """Returns an upper estimate of what it takes to add pictures to a protection.

  Args:
    values: What `Estimate.stored` returned when the first pictures were protected; not trusted.
    choice: The choice of that time.
    new: Number of new pictures.
    company: Number of published pictures with which they are compared.
    total: Number of all pictures, which are tested again.

  Returns:
    The estimate; None if there are no such values, as in keys of older versions.
  """
  names = [field.name for field in dataclasses.fields(Estimate)]
  try:
    first, before = Estimate(*(float(values[name]) for name in names)), int(values["pictures"])
    part, seen = total / before, generate.PASSES * (new + company) / (choice.method.epochs * before)
    return dataclasses.replace(
      first, making=first.making * seen, proving=first.proving * part, files=first.files * part
    )
  except (KeyError, TypeError, ValueError, ArithmeticError):
    return None


def start(choice: Choice, count: int) -> None:
  """Starts as many devices as divide the batches; must come before any other use of jax.

  Compiled programs are kept in the user's cache: compiling takes longer than a small protection.
  """
  if not getattr(jax.config, "jax_compilation_cache_dir", None):
    with contextlib.suppress(UserError, RuntimeError):  # no home, or it cannot be written
      root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
      folder = pathlib.Path(root) / "miue-jax"
      files.make_folder(folder)
      jax.config.update("jax_compilation_cache_dir", str(folder))
  # jax cannot store every program; this costs time and concerns no owner of pictures.
  warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
  sizes = {choice.fit(victim, choose.learning(count)).batch_size for victim in choice.victims}
  meshes.start(0, (*batch_sizes(choice.method), *sizes))


def estimate(
  choice: Choice, root: str | os.PathLike, pictures: Sequence[Found], classes: int
) -> Estimate:
  """Returns what a protection takes, from steps on random pixels and a few pictures."""
  count, learning = len(pictures), choose.learning(len(pictures))
  config = choice.config(choice.victims[0], learning)
  # A program needs one full batch; the number of steps is counted separately.
  making = Sizes((choice.size, choice.size, 3), max(count, *config.batch_sizes), 1, classes)
  built, timings = programs.build(config, making), {}
  # Patterns of classes take no network; the source model tells how fast victims are.
  for name in ("source",) if choice.patterned else programs.generation(built):
    watch = Stopwatch(built[name])
    timings[name] = plan.Timing(watch.measure(_SECONDS), watch.compile_seconds)
  made = 0.0
  if not choice.patterned:
    made = sum(built[name].total * timing.step for name, timing in timings.items())
  compiling = sum(timing.compile for timing in timings.values())
  # Victims train as the source model does; their arithmetic tells how much longer they take.
  second, proof = built["source"].flops() / timings["source"].step, 0.0  # FLOPs of a second
  testable = min(collections.Counter(picture.class_name for picture in pictures).values()) >= LEAST
  for victim in choice.victims if testable else ():
    compiling += timings["source"].compile * _CONDITIONS
    proof += _CONDITIONS * flops(choice, victim, learning, classes) / second
  pixels = count * 3 * 4 * (choice.size**2 + choice.seen**2)
  needed = memory.peak() + pixels + _VICTIMS
  return Estimate(made, proof, compiling, _reading(root, pictures, choice), needed)


def flops(choice: Choice, victim: Victim, learning: int, classes: int) -> float:
  """Returns the FLOPs of training a victim on `learning` pictures, without compiling anything."""
  config = choice.config(victim, learning)
  # A program needs one full batch; the number of steps is counted separately.
  image, batch = (choice.seen, choice.seen, 3), config.victim_fit.batch_size
  sizes = Sizes(image, max(learning, *config.batch_sizes), 1, classes)
  steps = victim.epochs * max(1, learning // batch)
  return steps * programs.build(config, sizes)["victim"].flops()


def _reading(root: str | os.PathLike, pictures: Sequence[Found], choice: Choice) -> float:
  """Returns the seconds of reading, publishing and reading again, from a few pictures."""
  sample = load.some(pictures, _SAMPLE)
  began = time.monotonic()
  load.load(root, sample, choice.size, choice.seen, quiet=True)
  return 4 * (time.monotonic() - began) * len(pictures) / len(sample)


def duration(seconds: float) -> str:
  """Returns a time in words, such as "about 25 minutes"."""
  for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
    if seconds >= 1.5 * length or (unit == "minute" and seconds >= 50):
      number = max(1, round(seconds / length))
      return f"about {number} {unit}{'s' if number != 1 else ''}"
  return "less than a minute"
