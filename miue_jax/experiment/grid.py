"""Every cell of the table once: poison, victim, row; what fails is marked and the rest goes on."""

import dataclasses
import itertools
import logging
import time

import jax
import numpy as np

from miue_jax import defences, models
from miue_jax.artefact import external
from miue_jax.artefact.poison import Poison
from miue_jax.experiment import cells, evaluate, measure, recipes, stages, summary
from miue_jax.experiment import workdir as workdirs
from miue_jax.experiment.cells import CLEAN, Cell
from miue_jax.experiment.stages import Experiment
from miue_jax.experiment.workdir import Workdir
from miue_jax.machine import memory, meshes, processes
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.locks import Locks
from miue_jax.settings.config import Config
from miue_jax.settings.errors import UserError

_logger = logging.getLogger(__name__)


class _Busy(Exception):  # noqa: N818 (not an error of the program)
  """Another program works at this."""


class _Lost(Exception):  # noqa: N818 (not an error of the program)
  """A cell that cannot be filled in this sitting, and why."""


@dataclasses.dataclass
class _Table:
  """The table of one data set in this sitting.

  Attributes:
    experiment: its settings, folder and data.
    external: poisons that were not made here.
    locks: pieces of work that other programs may hold.
    todo: cells that are not filled.
    broken: poisons that could not be made, and why.
  """

  experiment: Experiment
  external: dict[str, Poison]
  locks: Locks
  todo: list[Cell]
  broken: dict[tuple[str, int], str] = dataclasses.field(default_factory=dict)


def run(config: Config, workdir: Workdir, command: str) -> str:
  """Fills the tables of all data sets, writes their report and returns it as Markdown.

  Resumes where an earlier sitting stopped: finished poisons and rows stay, lost cells are tried
  again. Several programs may fill one table: what one works at, the others leave until the end. In
  a run of several processes a failure ends all of them.

  Raises:
    processes.Interrupted: a signal came; the state is saved.
    UserError: before any work: a name that is not known, things that do not go together, or
      external images that cannot be used.
  """
  places = cells.tables(config, workdir)
  for part, _ in places:
    check(part)
  tables = []
  for part, folder in places:
    try:
      tables.append(_opened(part, folder, command))
    except UserError as error:
      if folder == workdir:
        raise
      raise UserError(f"Data set {folder.root.name!r} of the comparison: {error}") from error
  experiments = [table.experiment for table in tables]
  _require_distinct([experiment.dataset.name for experiment in experiments])
  counts = processes.from_lead(lambda: [len(missing(experiment)) for experiment in experiments])
  total = sum(1 for part, _ in places for _ in cells.every(part))
  _logger.info("Comparison: %d of %d victims are still to be trained.", sum(counts), total)
  text = ""
  for wait in (False, True):  # first what nobody else works at
    for table in tables:
      meshes.start(table.experiment.config.devices, table.experiment.config.batch_sizes)
      todo, table.todo = table.todo, []
      for _, column in itertools.groupby(todo, key=lambda cell: cell[1:]):
        for cell in column:
          _locked(cell, table, wait)
        text = summary.write_report(config, workdir, experiments)
  return text or summary.write_report(config, workdir, experiments)


def check(config: Config) -> None:
  """Checks every name in the table of one data set before anything is read.

  Raises:
    UserError: an unknown method, victim or defence (the message lists what is known), a name that
      is used twice, or nothing to compare.
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
      raise UserError(
        f"Unknown victim {name!r} in compare.victims; known: {_listed(models.MODELS)}."
      )
  for name in compare.defences:
    defences.build(name)


def _opened(config: Config, workdir: Workdir, command: str) -> _Table:
  """Reads a data set and checks that all goes with it, and with what an earlier sitting left."""
  workdirs.open_workdir(workdir.root, config)
  experiment = stages.start(config, workdir, command, need_test=True)
  _check_fit(experiment)
  locks = Locks(workdir.root / "locks")
  with locks.hold("external", wait=True):
    poisons = _external(experiment)
  for name, seed in itertools.product(config.compare.methods, cells.poison_seeds(config)):
    made = cells.generation(experiment, name, seed)
    workdirs.open_workdir(made.workdir.root, made.config)
  todo = processes.from_lead(lambda: _unfinished(experiment))
  return _Table(experiment, poisons, locks, [Cell(*cell) for cell in todo])


def _require_distinct(names: list[str]) -> None:
  for name in names:
    if names.count(name) > 1:
      raise UserError(
        f"Two data sets of the comparison are called {name!r}: give each a data.name of its own."
      )


def _listed(names) -> str:
  return ", ".join(sorted(names))


def _check_fit(experiment: Experiment) -> None:
  """Raises a UserError where methods, victims or defences do not go with the data or devices."""
  config, dataset = experiment.config, experiment.dataset
  shape, devices = dataset.train.images.shape[1:], jax.sharding.get_mesh().size
  for name in cells.victims_of(config):
    stages.check_victim(dataclasses.replace(config.victim, name=name), config, dataset)
  for name in config.compare.methods:
    made = recipes.for_method(config, name)
    stages.check_method(made.method, dataset)
    if any(size % devices for size in made.batch_sizes):
      raise UserError(
        f"The batch sizes {sorted(set(made.batch_sizes))} of method {name!r} must be divisible by "
        f"the {devices} devices: change its recipe or set devices."
      )
  if any(defences.build(name).needs_clean for name in config.compare.defences):
    evaluate.clean_share(dataset.test, config)
  if config.compare.published == "cifar10" and (dataset.num_classes, shape) != (10, (32, 32, 3)):
    raise UserError(
      f"compare.published=cifar10, but {dataset.name} has {dataset.num_classes} classes and images "
      f"of shape {list(shape)}: leave it empty for other data."
    )


def missing(experiment: Experiment) -> list[Cell]:
  """The cells that no row fills."""
  rows = evaluate.read(experiment.workdir.results)
  filled = {tuple(row[key] for key in evaluate.CELL) for row in rows}
  return [
    cell
    for cell in cells.every(experiment.config)
    if tuple(cells.columns(cell, experiment).values()) not in filled
  ]


def _unfinished(experiment: Experiment) -> list[Cell]:
  """The cells that need work, in their order."""
  open_cells = {*missing(experiment), *_unmeasured(experiment)}
  return [cell for cell in cells.every(experiment.config) if cell in open_cells]


def _unmeasured(experiment: Experiment) -> list[Cell]:
  """The cells to be measured whose victim is kept; it is not where a table was made without."""
  lines = evaluate.read(cells.measurements(experiment.workdir))
  measured = {tuple(line[key] for key in evaluate.CELL) for line in lines}
  return [
    cell
    for cell in cells.every(experiment.config)
    if _is_measured(cell, experiment.config)
    and tuple(cells.columns(cell, experiment).values()) not in measured
    and cells.states(cell, experiment.workdir).exists()
  ]


def _is_measured(cell: Cell, config: Config) -> bool:
  """Whether the table shows the information of this victim: of one for each line and network."""
  return cell.defence == "none" and cell.seed == config.compare.seeds[0]


def _locked(cell: Cell, table: _Table, wait: bool) -> None:
  """Fills a cell or writes down why it is lost; what another program has stays to be done.

  Args:
    cell: which victim on what.
    table: gets the cell in `todo` where another program works at it or at its poison.
    wait: for the other program instead.
  """
  workdir = table.experiment.workdir
  with table.locks.hold(*cell, wait=wait) as ours:
    try:
      if not ours:
        raise _Busy
      if processes.from_lead(lambda: cell in _unfinished(table.experiment)):
        _fill(cell, table, wait)
    except _Busy:
      table.todo.append(cell)
    except _Lost as loss:
      _logger.warning("%s: lost: %s", " ".join(map(str, cell)), loss)
      row = cells.columns(cell, table.experiment) | {"reason": str(loss)}
      evaluate.append(cells.losses(workdir), row)


def _fill(cell: Cell, table: _Table, wait: bool) -> None:
  """Makes the poison if there is none yet, trains the victim and measures it.

  Raises:
    _Busy: another program makes the poison.
    _Lost: either fails in a way that leaves the other cells possible.
  """
  experiment = table.experiment
  config = _for_cell(experiment.config, cell)
  states = cells.states(cell, experiment.workdir)
  poison = _poison(cell, table, wait) if cell.method != CLEAN else None
  try:
    evaluate.rows(
      experiment.dataset,
      poison,
      config,
      results=experiment.workdir.results,
      checkpoints=states,
      progress=experiment.progress,
    )
  except (UserError, jax.errors.JaxRuntimeError) as error:
    raise _Lost(_reason(error)) from error
  try:
    if _is_measured(cell, config):
      _measure(cell, experiment, poison, config)
  except (UserError, ValueError, MemoryError, jax.errors.JaxRuntimeError) as error:
    # The victim stays, for the next sitting.
    _logger.warning("%s: not measured: %s", " ".join(map(str, cell)), _reason(error))
  else:
    Checkpoints(states).delete()


def _measure(cell: Cell, experiment: Experiment, poison: Poison | None, config: Config) -> None:
  """Adds what is measured of a trained victim to the measurements."""
  states, path = cells.states(cell, experiment.workdir), cells.measurements(experiment.workdir)
  began = time.monotonic()
  found = measure.measured(experiment.dataset, poison, config, states)
  took = {"seconds": round(time.monotonic() - began, 1)}
  if processes.is_lead():
    evaluate.append(path, cells.columns(cell, experiment) | took | found)


def _reason(error: Exception) -> str:
  """One line; the error itself where this process is not alone and the others would wait for it."""
  if processes.count() > 1:
    raise error
  return " ".join(str(error).split())[:400]


def _for_cell(config: Config, cell: Cell) -> Config:
  """The settings by which `evaluate.rows` trains this victim and no other."""
  return dataclasses.replace(
    config,
    method=dataclasses.replace(config.method, name=cell.method),
    victim=dataclasses.replace(config.victim, name=cell.victim),
    evaluate=dataclasses.replace(
      config.evaluate,
      conditions=(CLEAN if cell.method == CLEAN else "poison",),
      defences=(cell.defence,),
      seeds=(cell.seed,),
    ),
  )


def _poison(cell: Cell, table: _Table, wait: bool) -> Poison:
  """The poison that a victim learns from, made if there is none; errors as of `_fill`."""
  if cell.method in table.external:
    return table.external[cell.method]
  key = cell.method, cells.poison_seed(table.experiment.config, cell.seed)
  if key in table.broken:
    raise _Lost(table.broken[key])
  made = cells.generation(table.experiment, *key)
  with table.locks.hold("poison", *key, wait=wait) as ours:
    if not ours:
      raise _Busy
    try:
      if not processes.from_lead((made.workdir.poison / "manifest.json").exists):
        workdirs.bind(made.workdir, made.config, made.dataset)
        with memory.recorded(made.workdir.root / "memory.json"):
          stages.generate(made)
      return Poison.load(made.workdir.poison, made.dataset)
    except (UserError, jax.errors.JaxRuntimeError) as error:
      table.broken[key] = f"no poison: {_reason(error)}"
      raise _Lost(table.broken[key]) from error


def _external(experiment: Experiment) -> dict[str, Poison]:
  """Checks external images and keeps them as poisons.

  Raises:
    UserError: they cannot be used, or are not those that an earlier sitting was given.
  """
  config, poisons = experiment.config, {}
  for name, path in external.parse(config.compare.external).items():
    poison = external.make(name, path, experiment.dataset, config.method.epsilon, config.seed)
    folder = cells.generation(experiment, name, config.seed).workdir.poison
    if processes.from_lead((folder / "manifest.json").exists):
      kept = Poison.load(folder, experiment.dataset)
      if not np.array_equal(kept.delta, poison.delta):
        raise UserError(
          f"The images of {path} are not those that {folder} was made from: give them another name."
        )
    else:
      processes.from_lead(lambda poison=poison, folder=folder: poison.save(folder))
    poisons[name] = poison
  return poisons
