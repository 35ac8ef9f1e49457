"""Provides the folder of an experiment: its paths, and whether it belongs to a config.

With several processes, the lead process writes files and tests whether they exist; `Workdir` and
`results.Rows` are the only places of an experiment that distinguish processes.
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

from miue_jax.data.dataset import Dataset
from miue_jax.experiment import schemas
from miue_jax.machine import documents, files, processes, reading
from miue_jax.machine.progress import Progress, Reporter
from miue_jax.settings.config import Config
from miue_jax.settings.errors import UserError
from miue_jax.settings.schema import flat


def _path(name: str, content: str) -> property:
  return property(lambda self: self.root / name, doc=content)


@dataclasses.dataclass(frozen=True)
class Workdir:
  """Paths of one experiment, and access to them for all processes.

  Attributes:
    root: The folder.
  """

  root: pathlib.Path

  config = _path("config.json", "Settings, and the fingerprint of the data.")
  log = _path("log.txt", "Plain log, appended to.")
  tensorboard = _path("tensorboard", "Event files.")
  checkpoints = _path("checkpoints", "States of generation and of victims.")
  poison = _path("poison", "The poison: delta.npy and manifest.json.")
  memory = _path("memory.json", "Peak memory of the generation.")
  results = _path("results.jsonl", "One JSON row for each trained victim.")
  measurements = _path("measurements.jsonl", "One JSON row for each measured victim of a table.")
  lost = _path("lost.jsonl", "One JSON row, with `reason`, for each failure of a cell.")
  locks = _path("locks", "Locks of programs that fill one table.")
  measurement = _path("measurement.json", "Estimates of mutual information.")
  report = _path("report", "Report as HTML, Markdown and data.")
  images = _path("images", "Default folder of an export.")
  restored = _path("restored", "Default folder of restored images.")

  def on_lead(self, make: Callable[[], Any]) -> Any:
    """Calls `make` on the lead process and returns its JSON value on every process."""
    return processes.from_lead(make)

  def exists(self, path: pathlib.Path) -> bool:
    """Returns whether the lead process sees a path."""
    return processes.from_lead(lambda: files.exists(path))

  def has_poison(self) -> bool:
    """Returns whether the poison is finished."""
    return self.exists(self.poison / "manifest.json")


# What a workdir holds, and those parts that are not looked through: they can be large, and what
# reads and writes them looks at every file.
_NAMES = (
  *("config.json", "log.txt", "memory.json", "measurement.json", "pretrained.npz", "locks"),
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
    """Folder of the results, for stages that need one."""
    assert self.folder is not None, "this stage needs a folder"
    return self.folder

  @property
  def progress(self) -> Reporter:
    """Makes the reporter of a stage."""
    events = self.folder.tensorboard if self.folder else None
    return functools.partial(Progress, events, bar=self.bar)


def open_workdir(path: str | os.PathLike[str], config: Config) -> Workdir:
  """Makes the folder, or checks that an existing one was made by the same config.

  Only `bind` writes the config: a config whose data cannot be read must not occupy the folder.

  Raises:
    UserError: The folder was made by another config, whose differing keys are named, or it cannot
      be written.
  """
  workdir = Workdir(pathlib.Path(path))
  files.make_folder(workdir.root)
  reading.require_plain(workdir.root, _NAMES, _UNLISTED)
  stored = _stored(workdir)
  if stored is None:
    return workdir
  if "model" in stored["config"]:
    raise UserError(
      f"{workdir.root} was made by version 0.1, whose settings had other names: choose another "
      "--workdir. Its poison remains usable: --mode=restore works in that folder."
    )
  # A key that the stored config lacks was added later, so it had its default value.
  default = dataclasses.replace(Config(), method=type(config.method)())
  defaults, old, new = (
    flat(json.loads(json.dumps(content)))
    for content in (dataclasses.asdict(default), stored["config"], dataclasses.asdict(config))
  )
  old = defaults | old
  differing = sorted(
    key for key in old.keys() | new.keys() if old.get(key) != new.get(key) and not _may_change(key)
  )
  if differing:
    shown = ", ".join(f"{key} ({old.get(key)!r} there, {new.get(key)!r} here)" for key in differing)
    raise UserError(
      f"{workdir.root} was made by another config; these keys differ: {shown}. Choose another "
      "--workdir, or the config that made this one."
    )
  return workdir


def _may_change(key: str) -> bool:
  """Returns whether a key only chooses the cells of a table, which may grow.

  The recipe of each method is compared with the workdir of its poison.
  """
  return key.startswith("compare.") and key != "compare.poison_per_seed"


def bind(workdir: Workdir, config: Config, dataset: Dataset, part: str = "training images") -> None:
  """Ties the folder to its config and data, or checks that the data are still the same.

  Args:
    workdir: The folder.
    config: The settings.
    dataset: The data, whose fingerprint is stored.
    part: Name in messages of what the fingerprint covers.

  Raises:
    UserError: The images or labels changed since the folder was made, differ between processes, or
      a process does not see the folder.
  """
  fingerprint = dataset.fingerprint
  processes.require_same(
    {f"the {part}": fingerprint}, "give all processes the same files and data settings"
  )
  if not workdir.exists(workdir.config):
    content = {"config": dataclasses.asdict(config), "fingerprint": fingerprint}
    workdir.on_lead(lambda: files.write_json(workdir.config, content))
  stored = _stored(workdir)
  if stored is None:
    raise UserError(
      f"This process does not see what process 0 wrote to {workdir.root}: choose a --workdir on "
      "storage that all processes share."
    )
  if stored["fingerprint"] != fingerprint:
    raise UserError(
      f"The {part} of {dataset.name} changed since {workdir.root} was made: put them back, or "
      "choose another --workdir."
    )


def _stored(workdir: Workdir) -> dict[str, Any] | None:
  if not files.exists(workdir.config):
    return None
  return documents.read_json(workdir.config, "choose another --workdir", schemas.Stored)
