"""Fills a table of victims: methods x victims x defences x seeds.

A cell is one victim; a row of results fills it. Every grid of this package is such a table: the
conditions of one experiment, the methods of a comparison, and the arrays of `api.evaluate`.
"""

import contextlib
import dataclasses
import itertools
import logging
import pathlib
import time
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from miue_jax import defences
from miue_jax.data.dataset import Split
from miue_jax.experiment import measure, schemas, victims
from miue_jax.experiment.results import Row, Rows, key_of
from miue_jax.experiment.workdir import Experiment
from miue_jax.machine import processes
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.locks import Locks
from miue_jax.settings.config import Config
from miue_jax.settings.errors import UserError

_logger = logging.getLogger(__name__)

# Errors of one cell that leave the other cells possible.
FAILURES = (UserError, jax.errors.JaxRuntimeError)


class Busy(Exception):  # noqa: N818 (not an error of the program)
  """Reports that another program works on a cell or on its poison."""


class Lost(Exception):  # noqa: N818 (not an error of the program)
  """Reports that a cell cannot be filled in this run, and why."""


class Cell(NamedTuple):
  """One victim: its training images by the name of the method, its network, defence and seed."""

  method: str
  victim: str
  defence: str
  seed: int


@dataclasses.dataclass(frozen=True)
class Axes:
  """Lists the axes of a table.

  Attributes:
    methods: Names of the sets of training images, one for each row of the table.
    victims: Names of the networks that are trained.
    defences: Names of defences.
    seeds: Seeds of the victims.
    defended_seeds: Seeds of the victims with a defence. If empty, `seeds` is used.
  """

  methods: tuple[str, ...]
  victims: tuple[str, ...]
  defences: tuple[str, ...]
  seeds: tuple[int, ...]
  defended_seeds: tuple[int, ...] = ()

  def seeds_of(self, defence: str) -> tuple[int, ...]:
    """Returns the seeds of the victims with a defence."""
    return (defence != "none" and self.defended_seeds) or self.seeds

  def cells(self) -> list[Cell]:
    """Returns all cells in the order of work: all columns of the first seed, then of the next."""
    return [
      Cell(method, victim, defence, seed)
      for seed in dict.fromkeys(self.seeds + self.defended_seeds)
      for victim in self.victims
      for defence in self.defences
      if seed in self.seeds_of(defence)
      for method in self.methods
    ]

  def measured(self) -> list[Cell]:
    """Returns the cells whose victims are measured: undefended ones of the first seed."""
    first = self.seeds[0]
    return [cell for cell in self.cells() if (cell.defence, cell.seed) == ("none", first)]


@dataclasses.dataclass
class Table:
  """The table of one dataset.

  Attributes:
    experiment: Settings, data and folder.
    axes: The axes.
    split: Returns the training images of a cell. It is told whether to wait for other programs, and
      may raise `Busy` or `Lost`.
    keeps: Whether the states of victims that are to be measured remain for a later stage.
    comparison: Whether these victims are measured at once, and a cell that fails is recorded in
      `lost` and does not end the work.
    mesh: The devices; by default the mesh that is set when the table is made.
  """

  experiment: Experiment
  axes: Axes
  split: Callable[[Cell, bool], Split]
  keeps: bool = False
  comparison: bool = False
  mesh: jax.sharding.Mesh = dataclasses.field(default_factory=jax.sharding.get_mesh)

  def __post_init__(self):
    """Opens the rows and the locks."""
    folder = self.experiment.folder
    self.results = Rows(folder.results if folder else None)
    self.measurements = Rows(folder.measurements if folder else None, schemas.Measured)
    self.lost = Rows(folder.lost if folder else None, schemas.Loss)
    self.locks = Locks(folder.locks) if folder else None

  def rows(self) -> list[Row]:
    """Returns the rows of the cells that are filled, in the order of the cells."""
    found = {key_of(row): row for row in self.results.read()}
    keys = (key_of(self.columns(cell)) for cell in self.axes.cells())
    return [found[key] for key in keys if key in found]

  def columns(self, cell: Cell) -> Row:
    """Returns the columns of a row that identify its cell."""
    victim = victims.name_of(cell.victim, self.experiment.config.victim_fit)
    return {"dataset": self.experiment.dataset.name} | cell._asdict() | {"victim": victim}

  def check(self) -> None:
    """Raises a UserError if victims or defences do not fit the data."""
    config, dataset = self.experiment.config, self.experiment.dataset
    for name in self.axes.victims:
      victims.check(self._config_of(name), dataset)
    if any(defences.build(name).needs_clean for name in self.axes.defences):
      victims.clean_share(dataset.test_set, config)

  def missing(self) -> list[Cell]:
    """Returns the cells that no row fills."""
    return self._not_in(self.results, self.axes.cells())

  def unfinished(self) -> list[Cell]:
    """Returns the cells whose victim must be trained, or was trained and must be measured."""
    wanted = set(self.missing())
    if self.comparison:
      unmeasured = self._not_in(self.measurements, self.axes.measured())
      exists = self.experiment.workdir.exists
      wanted |= {cell for cell in unmeasured if (path := self.states(cell)) and exists(path)}
    return [cell for cell in self.axes.cells() if cell in wanted]

  def _not_in(self, rows: Rows, cells: Sequence[Cell]) -> list[Cell]:
    filled = rows.filled()
    return [cell for cell in cells if key_of(self.columns(cell)) not in filled]

  def states(self, cell: Cell) -> pathlib.Path | None:
    """Returns the folder of a victim's states."""
    if self.experiment.folder is None:
      return None
    method = urllib.parse.quote(cell.method, safe="")
    name = f"{method}-{cell.victim}-{cell.defence}-{cell.seed}"
    return self.experiment.folder.checkpoints / "victims" / name

  def fill(self, cell: Cell, wait: bool) -> bool:
    """Fills a cell, or records why it is lost.

    Args:
      cell: The cell.
      wait: Whether to wait for another program that works on it.

    Returns:
      False if another program works on the cell or on its poison.
    """
    with self.locks.hold(*cell, wait=wait) if self.locks else contextlib.nullcontext(True) as held:
      try:
        if held and cell in self.unfinished():
          self._fill(cell, wait)
        return held
      except Busy:
        return False
      except Lost as loss:
        _logger.warning("%s: lost: %s", " ".join(map(str, cell)), loss)
        self.lost.append(self.columns(cell) | {"reason": str(loss)})
        return True

  def _fill(self, cell: Cell, wait: bool) -> None:
    split = self.split(cell, wait)
    if cell in self.missing():
      self._train(cell, split)
    wanted = cell in self.axes.measured()
    kept = self.keeps or (self.comparison and wanted and not self._measure(cell, split))
    if not (wanted and kept):
      Checkpoints(self.states(cell)).delete()

  def _train(self, cell: Cell, split: Split) -> None:
    defence = [] if cell.defence == "none" else [cell.defence]
    try:
      row = victims.train(
        split,
        self.experiment.dataset,
        self._config_of(cell.victim),
        defences.build(cell.defence),
        seed=cell.seed,
        name=" ".join([cell.method, *defence, f"seed {cell.seed}"]),
        checkpoints=Checkpoints(self.states(cell)),
        progress=self.experiment.progress,
      )
    except FAILURES as error:
      if not self.comparison:
        raise
      raise Lost(reason(error)) from error
    self.results.append(self.columns(cell) | row)

  def _measure(self, cell: Cell, split: Split) -> bool:
    """Measures a victim, or returns False; its states then remain for the next run."""
    began = time.monotonic()
    try:
      found = self.measurement(cell, split)
    except (*FAILURES, ValueError, MemoryError) as error:
      _logger.warning("%s: not measured: %s", " ".join(map(str, cell)), reason(error))
      return False
    seconds = round(time.monotonic() - began, 1)
    self.measurements.append(self.columns(cell) | {"seconds": seconds} | found)
    return True

  def measurement(self, cell: Cell, split: Split) -> dict[str, Any]:
    """Returns the measurement of a trained victim, as `measure.measured` does."""
    experiment = dataclasses.replace(self.experiment, config=self._config_of(cell.victim))
    return measure.measured(experiment, split, self.columns(cell), self.states(cell))

  def _config_of(self, victim: str) -> Config:
    config = self.experiment.config
    return dataclasses.replace(config, victim=dataclasses.replace(config.victim, name=victim))


def fill(tables: Sequence[Table], column_done: Callable[[], None] = lambda: None) -> None:
  """Fills all cells of some tables; cells that other programs work on come last.

  Args:
    tables: The tables.
    column_done: Called after the cells of a column, which differ only in their method.

  Raises:
    processes.Interrupted: A signal came; the state is saved.
    UserError: A cell failed in a table that records no losses, or a file cannot be written.
  """
  todo = [table.unfinished() for table in tables]
  for wait in (False, True):
    for number, table in enumerate(tables):
      cells, todo[number] = todo[number], []
      with jax.set_mesh(table.mesh):
        for _, column in itertools.groupby(cells, key=lambda cell: cell[1:]):
          todo[number] += [cell for cell in column if not table.fill(cell, wait)]
          column_done()


def reason(error: Exception) -> str:
  """Returns the text of an error in one line.

  Raises:
    Exception: The error itself, if there are several processes; otherwise the others would wait for
      this one.
  """
  if processes.count() > 1:
    raise error
  return " ".join(str(error).split())[:400]
