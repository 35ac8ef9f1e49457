"""The cells of the table: which victims it holds, and where what belongs to them lies."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from miue_jax.artefact import external
from miue_jax.experiment import evaluate, recipes
from miue_jax.experiment.stages import Experiment
from miue_jax.experiment.workdir import Workdir
from miue_jax.settings.config import Config

CLEAN = "clean"  # what all are compared with; not a method


class Cell(NamedTuple):
  """One victim to train."""

  method: str
  victim: str
  defence: str
  seed: int


def tables(config: Config, workdir: Workdir) -> list[tuple[Config, Workdir]]:
  """Settings and folder of the table of each data set; what was given where none is listed."""
  names = config.compare.datasets
  tables = [(recipes.for_dataset(config, name), Workdir(workdir.root / name)) for name in names]
  return tables or [(config, workdir)]


def victims_of(config: Config) -> tuple[str, ...]:
  """Names of the victims' networks."""
  return config.compare.victims or (config.victim.name,)


def seeds_of(config: Config, defence: str) -> tuple[int, ...]:
  """Seeds of the victims with this defence."""
  return (defence != "none" and config.compare.defended_seeds) or config.compare.seeds


def names_of(config: Config) -> tuple[str, ...]:
  """Lines of the table."""
  return (CLEAN, *config.compare.methods, *external.parse(config.compare.external))


def every(config: Config) -> Iterator[Cell]:
  """Every cell, column by column and seed by seed: an early look compares like with like."""
  compare = config.compare
  for seed in dict.fromkeys(compare.seeds + compare.defended_seeds):
    for victim in victims_of(config):
      for defence in compare.defences:
        if seed in seeds_of(config, defence):
          for name in names_of(config):
            yield Cell(name, victim, defence, seed)


def poison_seed(config: Config, seed: int) -> int:
  """The seed of the poison that victims of `seed` learn from."""
  return seed if config.compare.poison_per_seed else config.seed


def poison_seeds(config: Config) -> tuple[int, ...]:
  """Seeds of all poisons of a method."""
  seeds = config.compare.seeds + config.compare.defended_seeds
  return tuple(dict.fromkeys(poison_seed(config, seed) for seed in seeds))


def generation(experiment: Experiment, name: str, seed: int) -> Experiment:
  """The experiment that makes one poison; `name` may be that of an external poison."""
  root = experiment.workdir.root / "poisons" / name / str(seed)
  config = dataclasses.replace(experiment.config, seed=seed)
  if name in config.compare.methods:
    config = recipes.for_method(config, name)
  return dataclasses.replace(experiment, config=config, workdir=Workdir(root))


def columns(cell: Cell, experiment: Experiment) -> dict[str, Any]:
  """The columns of a row that say which cell it fills, in the order of `evaluate.CELL`."""
  victim = evaluate.victim_name(cell.victim, experiment.config.victim_fit)
  return {"dataset": experiment.dataset.name} | cell._asdict() | {"victim": victim}


def losses(workdir: Workdir) -> pathlib.Path:
  """Cells that failed, one JSON line each, with `reason`."""
  return workdir.root / "lost.jsonl"


def measurements(workdir: Workdir) -> pathlib.Path:
  """What was measured of victims, one JSON line each, keyed as rows of results."""
  return workdir.root / "measurements.jsonl"


def states(cell: Cell, workdir: Workdir) -> pathlib.Path:
  """The folder of the victim's states while it is trained and measured."""
  folder = workdir.checkpoints / "compare" / cell.method / cell.victim
  return folder / f"{cell.defence}-{cell.seed}"
