"""Defines the parts of a method that makes poisons."""

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
    delta: Quantised perturbation, integers `[N, H, W, C]` in 255ths, in example order; None on all
      processes but the lead.
    seconds: Time spent, in this and all earlier runs.
    perturbed: Ids of the perturbed images; None when all are.
    history: Values recorded during the generation, by name. Methods with a source model have one
      value for each epoch: source loss (nats), source accuracy (percent), mean objective.
    source: Variables of the trained source model, as NumPy arrays; None if the method has none.
  """

  delta: np.ndarray | None
  seconds: float
  perturbed: np.ndarray | None
  history: dict[str, list[float]]
  source: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Phase:
  """One kind of step of a method, with everything that compiling it without data needs.

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
  """Measures a generation after some epochs; its values become part of the history.

  Attributes:
    names: Names of its values.
    epochs: Epochs after whose delta pass it measures.
  """

  names: tuple[str, ...]
  epochs: tuple[int, ...]

  def look(self, source: Any, delta: Any, layout: Any) -> tuple[float, ...]:
    """Returns the values; all processes must call this."""


class Method(Protocol):
  """A method that makes poisons; the entries of `METHODS` are such objects."""

  @property
  def settings(self) -> type[config.Method]:
    """Returns the class of the settings."""

  def phases(self, settings: Any, sizes: Sizes, seed: int) -> tuple[Phase, ...]:
    """Returns the kinds of steps for the mesh that is set; none if the method takes no steps.

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
    """Returns a perturbation of the training images.

    Args:
      dataset: The data; only the training split is used.
      settings: An instance of `settings`.
      seed: Seed of every random draw.
      checkpoints: Storage of states; an interrupted run continues from there.
      progress: Makes the reporter of the generation.
      observer: Measures the generation, if source model and delta alternate.

    Raises:
      signals.Interrupted: A signal came; the state is saved.
      UserError: A loss is not finite, or the images do not fit the settings.
    """


def check_classes(settings: config.Method, name: str, classes: int) -> None:
  """Raises a UserError if the settings name classes that the dataset does not have."""
  if settings.only_class >= classes:
    raise UserError(
      f"Setting method.only_class of method {settings.name!r} is {settings.only_class}; "
      f"{name} has classes 0..{classes - 1}."
    )
  if len(settings.class_fractions) > classes:
    raise UserError(
      f"Setting method.class_fractions of method {settings.name!r} names "
      f"{len(settings.class_fractions)} fractions; {name} has {classes} classes."
    )
