"""The folder of one experiment: what lies where, and whether it belongs to this config."""

import dataclasses
import json
import pathlib
from typing import Any

from miue_jax.data.dataset import Dataset
from miue_jax.machine import files, processes
from miue_jax.settings.config import Config
from miue_jax.settings.errors import UserError
from miue_jax.settings.schema import flat


@dataclasses.dataclass(frozen=True)
class Workdir:
  """Paths of one experiment.

  Attributes:
    root: the folder.
  """

  root: pathlib.Path

  @property
  def config(self) -> pathlib.Path:
    """The settings, and the fingerprint of the data."""
    return self.root / "config.json"

  @property
  def log(self) -> pathlib.Path:
    """The plain log, appended to."""
    return self.root / "log.txt"

  @property
  def tensorboard(self) -> pathlib.Path:
    """Event files."""
    return self.root / "tensorboard"

  @property
  def checkpoints(self) -> pathlib.Path:
    """States of generation and victims."""
    return self.root / "checkpoints"

  @property
  def poison(self) -> pathlib.Path:
    """The artefact: delta.npy and manifest.json."""
    return self.root / "poison"

  @property
  def results(self) -> pathlib.Path:
    """One JSON row per trained victim."""
    return self.root / "results.jsonl"

  @property
  def measurement(self) -> pathlib.Path:
    """Mutual-information estimates."""
    return self.root / "measurement.json"

  @property
  def report(self) -> pathlib.Path:
    """index.html, report.md, report.json."""
    return self.root / "report"

  @property
  def images(self) -> pathlib.Path:
    """The default place of an export."""
    return self.root / "images"

  @property
  def restored(self) -> pathlib.Path:
    """The default place of restored images."""
    return self.root / "restored"


def open_workdir(path: str | pathlib.Path, config: Config) -> Workdir:
  """Makes the folder, or checks that an existing one was made by the same config.

  Nothing is written yet: a config whose data cannot be read must not claim the folder.

  Raises:
    UserError: it was made by another config (the message names the keys), or cannot be written.
  """
  workdir = Workdir(pathlib.Path(path))
  settings = dataclasses.asdict(config)
  with files.reported("write", workdir.root):
    workdir.root.mkdir(parents=True, exist_ok=True)
  stored = _stored(workdir)
  if stored is None:
    return workdir
  if "model" in stored["config"]:
    raise UserError(
      f"{workdir.root} was made by version 0.1, whose settings had other names: choose another "
      "--workdir. Its poison remains usable: --mode=restore works in that folder."
    )
  # A key that the folder's config lacks is younger than the folder: it had its default.
  default = dataclasses.replace(Config(), method=type(config.method)())
  defaults, old, new = (
    flat(json.loads(json.dumps(content)))
    for content in (dataclasses.asdict(default), stored["config"], settings)
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
  """Returns whether a key only says which cells a table has: a table may grow.

  Each method's recipe is held to the workdir of its poison.
  """
  return key.startswith("compare.") and key != "compare.poison_per_seed"


def bind(workdir: Workdir, config: Config, dataset: Dataset) -> None:
  """Ties the folder to its config and data, or checks that the data are still the same.

  Raises:
    UserError: the training images or labels changed since the folder was made, differ between
      processes, or a process does not see the folder.
  """
  fingerprint = dataset.fingerprint
  processes.require_same(
    {"the training images": fingerprint}, "give all processes the same files and data settings"
  )
  if processes.from_lead(lambda: _stored(workdir) is None):
    content = {"config": dataclasses.asdict(config), "fingerprint": fingerprint}
    processes.from_lead(lambda: files.write_json(workdir.config, content))
  stored = _stored(workdir)
  if stored is None:
    raise UserError(
      f"This process does not see what process 0 wrote to {workdir.root}: choose a --workdir on "
      "storage that all processes share."
    )
  if stored["fingerprint"] != fingerprint:
    raise UserError(
      f"The training images of {dataset.name} changed since {workdir.root} was made: put them "
      "back, or choose another --workdir."
    )


def _stored(workdir: Workdir) -> dict[str, Any] | None:
  if not workdir.config.exists():
    return None
  stored = files.read_json(workdir.config, "choose another --workdir")
  if isinstance(stored.get("config"), dict) and isinstance(stored.get("fingerprint"), str):
    return stored
  raise UserError(f"{workdir.config} is damaged: choose another --workdir.")
