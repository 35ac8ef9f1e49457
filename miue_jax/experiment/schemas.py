"""Declares rows and measurements, for readers that do not trust the files of a workdir.

Only what the report computes with or shows is declared; other keys may hold any JSON value. Rows of
earlier versions lack some of the keys.
"""

from typing import Annotated, Any, NotRequired

import pydantic
from typing_extensions import TypedDict

from miue_jax.settings.schema import Moderate, Whole

Known = Moderate | None
Percent = Annotated[Moderate, pydantic.AfterValidator(lambda value: _within(value, 100))] | None
Share = Annotated[Moderate, pydantic.AfterValidator(lambda value: _within(value, 1))] | None
Classes = Annotated[int, pydantic.Field(ge=1, le=2**31)]
Ends = Annotated[list[Known], pydantic.Field(min_length=2, max_length=2)] | None


def _within(value: float, largest: float) -> float:
  if value < 0 or value > largest:
    raise ValueError(f"it should be between 0 and {largest}")
  return value


class Settings(TypedDict, total=False):
  """The settings of a workdir, of this version or an earlier one."""

  data: dict[str, Any]
  method: dict[str, Any]


class Stored(TypedDict):
  """The file that binds a workdir to a config and its data."""

  config: Settings
  fingerprint: str
  dataset: NotRequired[str]
  stages: NotRequired[dict[str, dict[str, Any]]]  # what each stage used


class Cell(TypedDict):
  """The columns that identify a victim."""

  dataset: str
  method: str
  victim: str
  defence: str
  seed: Whole


class Curve(TypedDict, total=False):
  """Accuracies (percent) and losses (nats) after each epoch."""

  epoch: list[Whole]
  train_loss: list[Known]
  train_accuracy: list[Percent]
  test_accuracy: list[Percent]
  validation_accuracy: list[Percent]


class Result(Cell):
  """A trained victim."""

  num_classes: NotRequired[Classes | None]
  epochs: NotRequired[Whole | None]
  test_accuracy: NotRequired[Percent]
  peak_test_accuracy: NotRequired[Percent]
  train_accuracy: NotRequired[Percent]
  balanced_accuracy: NotRequired[Percent]
  auc: NotRequired[Share]
  seconds: NotRequired[Known]
  curve: NotRequired[Curve | None]


class Loss(Cell):
  """A cell of a table that cannot be filled."""

  reason: str


class Estimate(TypedDict):
  """An estimate of mutual information (nats)."""

  mi: Known
  method: NotRequired[str]
  layer: NotRequired[str | None]
  estimator: NotRequired[str | None]
  std: NotRequired[Known]
  interval: NotRequired[Ends]
  null_mean: NotRequired[Known]
  null_std: NotRequired[Known]
  warnings: NotRequired[list[str] | None]
  settings: NotRequired[dict[str, Any] | None]


class Terms(TypedDict, total=False):
  """Terms of Theorem 5.1, in total or of a class."""

  half_log_det: Known
  intra_cosine: Known
  inter_cosine: Known
  effective_rank: Known
  divergence: Known
  spectrum: list[Moderate]


class ClassTerms(TypedDict):
  """Terms of a class before and after release."""

  label: Whole
  samples: Whole
  before: Terms
  after: Terms


class Separability(TypedDict, total=False):
  """Holds the accuracies (percent) of a linear classifier, or a note why it was not trained."""

  test_accuracy: Percent
  train_accuracy: Percent
  chance: Percent
  note: str


class Change(TypedDict, total=False):
  """A number before and after release, or a note why there is none."""

  before: Known
  after: Known
  note: str


class Learning(TypedDict, total=False):
  """Describes how fast the victim learned."""

  first_loss: Known
  epochs_to_half: Known


class Theory(TypedDict):
  """The measured terms of the theory for one condition, and other explanations."""

  method: NotRequired[str]
  before: NotRequired[Terms | None]
  after: NotRequired[Terms | None]
  classes: NotRequired[Annotated[list[ClassTerms], pydantic.AfterValidator(lambda x: _alike(x))]]
  note: NotRequired[str]
  perturbations: NotRequired[Separability | None]
  images: NotRequired[Separability | None]
  class_means: NotRequired[Change | None]
  learning: NotRequired[Learning]


def _alike(classes: list[ClassTerms]) -> list[ClassTerms]:
  lengths = {len(one[when].get("spectrum", ())) for one in classes for when in ("before", "after")}
  if len(lengths) > 1:
    raise ValueError("the spectra should have one length")
  return classes


class Measurement(TypedDict):
  """The measured victims of an experiment."""

  settings: dict[str, Any]
  rows: list[Estimate]
  theory: NotRequired[list[Theory] | None]


class Used(TypedDict):
  """The settings of a measurement that the captions of a table name."""

  samples: Whole
  seed: Whole


class Measured(Cell):
  """A measured victim of a table."""

  settings: Used
  rows: list[Estimate]
  theory: Annotated[list[Theory], pydantic.Field(min_length=1)]
