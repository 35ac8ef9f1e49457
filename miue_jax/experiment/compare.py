"""Compares methods, each with its recipe, against victims and defences, over seeds and datasets."""

import contextlib
import dataclasses
import logging
from collections.abc import Generator, Sequence

import jax

from miue_jax import defences, models, report
from miue_jax.artefact import external
from miue_jax.experiment import (
  bindings,
  explain,
  poisons,
  recipes,
  schemas,
  stages,
  table,
  victims,
)
from miue_jax.experiment.poisons import CLEAN
from miue_jax.experiment.results import Rows
from miue_jax.experiment.table import Axes, Table
from miue_jax.experiment.workdir import Experiment, Workdir
from miue_jax.machine import files
from miue_jax.settings.config import Config, batch_problems
from miue_jax.settings.errors import UserError

_logger = logging.getLogger(__name__)


def run(config: Config, workdir: Workdir, command: str) -> str:
  """Fills the tables of all datasets, writes their report and returns it as Markdown.

  An interrupted run continues: finished poisons and rows remain, and lost cells are tried again.
  Several programs may fill one table: each leaves the cells that another one works on until the
  end. In a run of several processes, a failure ends all of them.

  Raises:
    processes.Interrupted: A signal came; the state is saved.
    UserError: Before any work: a name is unknown, settings do not fit each other, or external
      images cannot be used.
  """
  places = _places(config, workdir)
  for part, _ in places:
    check(part)
  experiments, tables = [], []
  for part, folder in places:
    with _named(folder, workdir):
      experiments.append(_started(part, folder, command))
  names = [experiment.dataset.name for experiment in experiments]
  if twice := next((name for name in names if names.count(name) > 1), None):
    raise UserError(
      f"Two datasets of the comparison are called {twice!r}: give one of them another data.name."
    )
  for experiment in experiments:
    with _named(experiment.workdir, workdir):
      tables.append(_table(experiment))
  for experiment in experiments:
    bindings.record(experiment, bindings.fingerprints(experiment.dataset), ("compare",))
  missing, total = sum(len(t.missing()) for t in tables), sum(len(t.axes.cells()) for t in tables)
  _logger.info("Comparison: %d of %d victims are still to be trained.", missing, total)

  def write_report() -> str:
    return workdir.on_lead(lambda: _write_report(config, workdir, experiments))

  texts: list[str] = []
  table.fill(tables, lambda: texts.append(write_report()))
  return texts[-1] if texts else write_report()


@contextlib.contextmanager
def _named(folder: Workdir, workdir: Workdir) -> Generator[None]:
  """Names the dataset of `folder` in an error of the block, if there are several datasets."""
  try:
    yield
  except UserError as error:
    if folder == workdir:
      raise
    raise UserError(f"Dataset {folder.root.name!r} of the comparison: {error}") from error


def _places(config: Config, workdir: Workdir) -> list[tuple[Config, Workdir]]:
  """Returns settings and folder of the table of each dataset."""
  names = config.compare.datasets
  places = [(recipes.for_dataset(config, name), Workdir(workdir.root / name)) for name in names]
  return places or [(config, workdir)]


def axes(config: Config) -> Axes:
  """Returns the axes of a comparison on one dataset."""
  compare = config.compare
  return Axes(
    (CLEAN, *compare.methods, *external.parse(compare.external)),
    compare.victims or (config.victim.name,),
    compare.defences,
    compare.seeds,
    compare.defended_seeds,
  )


def check(config: Config) -> None:
  """Checks every name in the table of one dataset before anything is read.

  Raises:
    UserError: A method, victim or defence is unknown, a name is used twice, or there is nothing to
      compare.
  """
  compare, paths = config.compare, external.parse(config.compare.external)
  if not compare.methods and not paths:
    raise UserError("There is nothing to compare: set compare.methods or compare.external.")
  for name in paths:
    if name in compare.methods or name == CLEAN:
      raise UserError(f"compare.external uses the name {name!r}, which is taken: choose another.")
  for name in compare.methods:
    if name == CLEAN:
      raise UserError(f"compare.methods names {CLEAN!r}, which every table has: leave it out.")
    recipes.for_method(config, name)
  for name in compare.victims:
    if name not in models.MODELS:
      known = ", ".join(sorted(models.MODELS))
      raise UserError(f"Unknown victim {name!r} in compare.victims; known: {known}.")
  for name in compare.defences:
    defences.build(name)


def _started(config: Config, workdir: Workdir, command: str) -> Experiment:
  """Reads a dataset and checks that methods and published numbers fit the data and devices."""
  experiment = stages.start(config, workdir, command, need_test=True, checked=("compare",))
  dataset, devices = experiment.dataset, jax.sharding.get_mesh().size
  count = len(dataset.train)
  problems = batch_problems(config, count, ("compare",), devices)
  for name in config.compare.methods:
    made = recipes.for_method(config, name)
    stages.check_method(made.method, dataset)
    problems += [
      f"{problem} (method {name!r})"
      for problem in batch_problems(made, count, ("generate",), devices)
    ]
  if problems:
    raise UserError(f"{'; '.join(problems)}: change recipes or devices.")
  shape = dataset.train.images.shape[1:]
  if config.compare.published == "cifar10" and (dataset.num_classes, shape) != (10, (32, 32, 3)):
    raise UserError(
      f"compare.published=cifar10, but {dataset.name} has {dataset.num_classes} classes and images "
      f"of shape {list(shape)}: leave it empty for other data."
    )
  return experiment


def _table(experiment: Experiment) -> Table:
  """Returns the table of one dataset, after checks against the data and an earlier run."""
  made = Table(
    experiment,
    axes(experiment.config),
    lambda cell, wait: source.split(cell, wait),
    comparison=True,
  )
  made.check()
  assert made.locks is not None, "a comparison has a folder"
  source = poisons.Poisons(experiment, made.locks)
  return made


def _write_report(config: Config, workdir: Workdir, experiments: Sequence[Experiment]) -> str:
  results = [_results(experiment) for experiment in experiments]
  found = report.Comparison(results, dataclasses.asdict(config), experiments[0].command)
  files.write_texts(workdir.report, found.files)
  return found.files["compare.md"]


def _results(experiment: Experiment) -> report.Results:
  """Returns the results of the comparison on one dataset."""
  config, workdir, own = experiment.config, experiment.workdir, axes(experiment.config)
  shown = report.Axes(
    dataset=experiment.dataset.name,
    methods=own.methods,
    victims=tuple(victims.name_of(name, config.victim_fit) for name in own.victims),
    seeds={defence: own.seeds_of(defence) for defence in own.defences},
  )
  rows = Rows(workdir.results).read()
  measurements = Rows(workdir.measurements, schemas.Measured).read()
  return report.Results(
    shown,
    rows,
    lost=Rows(workdir.lost, schemas.Loss).read(),
    measurements=measurements,
    explanations=explain.by_victim(shown, rows, measurements),
    facts={name: poisons.facts(experiment, name) for name in own.methods[1:]},
    published=config.compare.published,
  )
