"""Provides the folder of an experiment: its paths, access for all processes, and one run in it.

With several processes, the lead process writes files and tests whether they exist; `Workdir` and
`results.Rows` are the only places of an experiment that distinguish processes.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import shutil
from collections.abc import Callable, Generator, Sequence
from typing import Any

from miue_jax.data.dataset import Dataset
from miue_jax.experiment import schemas
from miue_jax.machine import documents, files, leftovers, locks, processes, reading
from miue_jax.machine.progress import Progress, Reporter
from miue_jax.settings.config import Config
from miue_jax.settings.errors import UserError


@dataclasses.dataclass(frozen=True)
class Workdir:
  """Paths of one experiment, and access to them for all processes.

  Attributes:
    root: The folder.
  """

  root: pathlib.Path

  config = files.member("config.json", "Settings, and the fingerprint of the data.")
  log = files.member("log.txt", "Plain log, appended to.")
  tensorboard = files.member("tensorboard", "Event files.")
  checkpoints = files.member("checkpoints", "States of generation and of victims.")
  poison = files.member("poison", "The poison: delta.npy and manifest.json.")
  memory = files.member("memory.json", "Peak memory of the generation.")
  results = files.member("results.jsonl", "One JSON row for each trained victim.")
  measurements = files.member(
    "measurements.jsonl", "One JSON row for each measured victim of a table."
  )
  lost = files.member("lost.jsonl", "One JSON row, with `reason`, for each failure of a cell.")
  locks = files.member(locks.FOLDER, "Locks of programs.")
  measurement = files.member("measurement.json", "Estimates of mutual information.")
  report = files.member("report", "Report as HTML, Markdown and data.")
  images = files.member("images", "Default folder of an export.")
  restored = files.member("restored", "Default folder of restored images.")

  def on_lead(self, make: Callable[[], Any]) -> Any:
    """Calls `make` on the lead process and returns its JSON value on every process."""
    return processes.from_lead(make)

  def exists(self, path: pathlib.Path) -> bool:
    """Returns whether the lead process sees a path."""
    return processes.from_lead(lambda: files.exists(path))

  def has_poison(self) -> bool:
    """Returns whether the poison is finished."""
    return self.exists(self.poison / "manifest.json")


# Names in a workdir, and the folders whose content is not checked here: they can be large, and the
# code that reads and writes them checks every file.
_NAMES = (
  *("config.json", "log.txt", "memory.json", "measurement.json", "pretrained.npz", locks.FOLDER),
  *("results.jsonl", "measurements.jsonl", "lost.jsonl"),
  *("tensorboard", "checkpoints", "poison", "poisons", "report", "images", "restored"),
)
_UNLISTED = ("images", "restored")


@dataclasses.dataclass(frozen=True)
class Experiment:
  """The common input of all stages.

  Attributes:
    config: Validated settings.
    folder: The folder of the results; None writes nothing to the disk.
    dataset: The clean data.
    command: The command line, for the report.
    bar: Whether to show progress bars.
  """

  config: Config
  folder: Workdir | None
  dataset: Dataset
  command: str = ""
  bar: bool = False

  @property
  def workdir(self) -> Workdir:
    """Returns the folder of the results, for stages that need one."""
    assert self.folder is not None, "this stage needs a folder"
    return self.folder

  @property
  def progress(self) -> Reporter:
    """Returns the function that makes the reporter of a stage."""
    events = self.folder.tensorboard if self.folder else None
    return functools.partial(Progress, events, bar=self.bar)


def open_workdir(path: str | os.PathLike[str]) -> Workdir:
  """Returns the workdir of a path; writes nothing.

  Raises:
    UserError: The path is empty, not local or not UTF-8, an old version made the folder, or its
      settings are damaged.
  """
  reading.require_local(path, f"--workdir={path}")
  workdir = Workdir(pathlib.Path(path))
  try:
    str(path).encode()
  except UnicodeEncodeError as error:
    raise UserError(f"--workdir={str(path)!r} is not UTF-8: choose another name.") from error
  if "model" in (stored_in(workdir) or {"config": {}})["config"]:
    raise UserError(
      f"{workdir.root} was made by version 0.1, whose settings had other names: choose another "
      "--workdir. Its poison remains usable: --mode=restore works in that folder."
    )
  return workdir


@contextlib.contextmanager
def occupied(workdir: Workdir, alone: bool) -> Generator[None]:
  """Makes the folder for a run; a run that is refused before it made anything leaves no trace.

  Args:
    workdir: The folder.
    alone: Whether to keep other programs out and remove what killed ones left behind.

  Raises:
    UserError: Another program works there, or the folder cannot be written.
  """
  before = processes.from_lead(lambda: _listed(workdir.root))
  missing = [path for path in (workdir.root, *workdir.root.parents) if not files.exists(path)]
  try:
    processes.from_lead(lambda: files.make_folder(workdir.root))
    processes.from_lead(lambda: reading.require_plain(workdir.root, _NAMES, _UNLISTED))
    with locks.alone(workdir.root) if alone else contextlib.nullcontext():
      if alone:
        partial, shallow = ("images", "restored"), ("checkpoints", "tensorboard", locks.FOLDER)
        processes.from_lead(lambda: leftovers.sweep(workdir.root, partial, shallow))
      yield
  except UserError:
    if processes.is_lead() and not files.exists(workdir.config):
      _discard(workdir, before or [], missing)
    raise


def _listed(root: pathlib.Path) -> list[str] | None:
  return [entry.name for entry in reading.entries(root)] if files.exists(root) else None


def _discard(workdir: Workdir, before: Sequence[str], missing: Sequence[pathlib.Path]) -> None:
  """Removes the log, the locks and the folders that a refused run made."""
  with contextlib.suppress(OSError):
    if workdir.log.name not in before:
      workdir.log.unlink(missing_ok=True)
    if locks.FOLDER not in before:
      shutil.rmtree(workdir.locks, ignore_errors=True)
    for path in missing:
      os.rmdir(path)


def stored_in(workdir: Workdir) -> dict[str, Any] | None:
  """Returns the settings and bindings of a workdir, or None before its first result.

  Raises:
    UserError: They are damaged.
  """
  if not files.exists(workdir.config):
    return None
  return documents.read_json(workdir.config, "choose another --workdir", schemas.Stored)
