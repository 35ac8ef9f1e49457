"""Defines what a method of making poisons consists of."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from miue_jax.data.dataset import Dataset
from miue_jax.machine import loops
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.progress import Reporter
from miue_jax.settings import config
from miue_jax.settings.errors import UserError


class Sizes(NamedTuple):
  """The sizes of a dataset.

  Attributes:
    image: Height, width and number of channels.
    train: Number of training images.
    classes: Number of classes.
  """

  image: tuple[int, int, int]
  train: int
  classes: int


@dataclasses.dataclass(frozen=True)
class Generated:
  """A finished perturbation, before it becomes an artefact.

  Attributes:
    delta: Quantised perturbation, integers `[N, H, W, C]` in 255ths, in example order; None except
      on the lead process.
    seconds: Time spent, over all sittings.
    perturbed: Ids of the perturbed images; None when all are.
    history: Course of the generation, by name; for methods with a source model one value for each
      epoch: source loss (nats), source accuracy (percent), mean objective over the delta steps.
  """

  delta: np.ndarray | None
  seconds: float
  perturbed: np.ndarray | None
  history: dict[str, list[float]]


def generated(
  delta: np.ndarray | None, seconds: float, chosen: np.ndarray, history: dict[str, np.ndarray]
) -> Generated:
  """Returns a `Generated` whose history leaves out entries that are NaN.

  Args:
    delta: As in `Generated`.
    seconds: Time spent.
    chosen: Images that are perturbed, bool `[N]`.
    history: Values by name; rounded to 6 digits.
  """
  columns = {name: np.round(np.asarray(x, np.float64), 6) for name, x in history.items()}
  return Generated(
    delta,
    float(seconds),
    None if chosen.all() else np.flatnonzero(chosen),
    {name: column[~np.isnan(column)].tolist() for name, column in columns.items()},
  )


@dataclasses.dataclass(frozen=True)
class Phase:
  """One kind of step of a method, with all that is needed to compile it without data.

  Attributes:
    name: Name, such as "source" or "delta".
    batch: Images that one step reads, padding included.
    steps: Steps of one segment: indices run from 0 to this.
    segments: Number of segments of the whole generation, at most.
    passes: Passes over the training images of one segment.
    rows: Images that `arguments` takes.
    step: The step, `(carry, constants, index) -> carry`.
    arguments: Makes example arguments `(carry, constants)` from images uint8 `[rows, H, W, C]` and
      labels int32 `[rows]`; traceable.
    specs: Partition specs of these arguments.
  """

  name: str
  batch: int
  steps: int
  segments: int
  passes: float
  rows: int
  step: loops.Step
  arguments: Callable[[Any, Any], tuple[Any, Any]]
  specs: tuple[Any, Any]


class Observer(Protocol):
  """Looks at a generation now and then; its values become part of the history.

  Attributes:
    names: Names of its values.
    epochs: Epochs after whose delta pass it looks.
  """

  names: tuple[str, ...]
  epochs: tuple[int, ...]

  def look(self, source: Any, delta: Any, layout: Any) -> tuple[float, ...]:
    """Returns its values; all processes must call this."""


class Method(Protocol):
  """A way to make a poison; the entries of `METHODS` are such objects.

  Attributes:
    settings: Class of its settings.
  """

  settings: type[config.Method]

  def phases(self, settings: Any, sizes: Sizes, seed: int) -> tuple[Phase, ...]:
    """Returns the kinds of steps that it takes on the mesh that is set; none where it only draws.

    Raises:
      UserError: The images do not fit the network or fill no batch.
    """

  def generate(
    self,
    dataset: Dataset,
    settings: Any,
    seed: int,
    checkpoints: Checkpoints,
    progress: Reporter,
    observer: Observer | None = None,
  ) -> Generated:
    """Makes a perturbation of the training images.

    Args:
      dataset: The data; only the training split is used.
      settings: An instance of `settings`.
      seed: Seed of every random draw.
      checkpoints: Storage of states; an interrupted run continues from there.
      progress: Makes the reporter of the generation.
      observer: Looks at the generation, where a source model and delta alternate.

    Raises:
      signals.Interrupted: A signal came; the state is saved.
      UserError: A loss is not finite, or the images do not fit the settings.
    """


def check_classes(settings: config.Method, name: str, classes: int) -> None:
  """Raises a UserError where a method is to perturb classes that the dataset does not have."""
  if settings.only_class >= classes:
    raise UserError(
      f"Setting method.only_class of method {settings.name!r} is {settings.only_class}; "
      f"{name} has classes 0..{classes - 1}."
    )
  if len(settings.class_fractions) not in (0, classes):
    raise UserError(
      f"Setting method.class_fractions of method {settings.name!r} names "
      f"{len(settings.class_fractions)} fractions; {name} has {classes} classes."
    )
