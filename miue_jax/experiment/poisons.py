"""Provides the poisons of a comparison and makes those that are missing."""

import dataclasses
from typing import Any

import numpy as np

from miue_jax import budget
from miue_jax.artefact import external
from miue_jax.artefact import manifest as manifests
from miue_jax.artefact.poison import Poison
from miue_jax.data.dataset import Split
from miue_jax.experiment import bindings, recipes, stages, victims
from miue_jax.experiment import workdir as workdirs
from miue_jax.experiment.table import FAILURES, Busy, Cell, Lost, reason
from miue_jax.experiment.workdir import Experiment, Workdir
from miue_jax.machine import files, memory
from miue_jax.machine.locks import Locks
from miue_jax.settings.config import Config
from miue_jax.settings.errors import UserError

CLEAN = "clean"  # the line that all others are compared with


def seed_of(config: Config, seed: int) -> int:
  """Returns the seed of the poison that victims of `seed` learn from."""
  return seed if config.compare.poison_per_seed else config.seed


def seeds(config: Config) -> tuple[int, ...]:
  """Returns the seeds of all poisons of a method."""
  of_victims = config.compare.seeds + config.compare.defended_seeds
  return tuple(dict.fromkeys(seed_of(config, seed) for seed in of_victims))


def generation(experiment: Experiment, name: str, seed: int) -> Experiment:
  """Returns the experiment that makes one poison; `name` may be that of an external one."""
  root = experiment.workdir.root / "poisons" / name / str(seed)
  config = dataclasses.replace(experiment.config, seed=seed)
  if name in config.compare.methods:
    config = recipes.for_method(config, name)
  return dataclasses.replace(experiment, config=config, folder=Workdir(root))


class Poisons:
  """Maps the cells of a comparison to their training images; makes missing poisons."""

  def __init__(self, experiment: Experiment, locks: Locks):
    """Checks the external poisons, and the folders of those that are made here.

    Raises:
      UserError: External images cannot be used or changed since an earlier run, or a poison was
        made with other settings.
    """
    self._experiment, self._locks = experiment, locks
    self._broken: dict[tuple[str, int], str] = {}
    self._images = bindings.fingerprints(experiment.dataset)
    config = experiment.config
    with locks.hold("external", wait=True):
      paths = external.parse(config.compare.external)
      self._external = {name: self._kept(name, path) for name, path in paths.items()}
    for name in config.compare.methods:
      for seed in seeds(config):
        made = generation(experiment, name, seed)
        workdirs.open_workdir(made.workdir.root)
        bindings.check(made, self._images, ("generate",))

  def _kept(self, name: str, path: Any) -> Poison:
    """Returns an external poison, which it also keeps in the workdir."""
    config, dataset = self._experiment.config, self._experiment.dataset
    poison = external.make(name, path, dataset, config.method.epsilon, config.seed)
    workdir = generation(self._experiment, name, config.seed).workdir
    if not workdir.has_poison():
      workdir.on_lead(lambda: poison.save(workdir.poison))
    elif not np.array_equal(Poison.load(workdir.poison, dataset).delta, poison.delta):
      raise UserError(
        f"The images of {path} are not those that {workdir.poison} was made from: give them "
        "another name."
      )
    return poison

  def split(self, cell: Cell, wait: bool) -> Split:
    """Returns the training images of a cell.

    Raises:
      Busy: Another program makes the poison.
      Lost: The poison cannot be made.
    """
    experiment = self._experiment
    poison = None if cell.method == CLEAN else self._poison(cell, wait)
    condition = "poison" if poison else "clean"
    return victims.training_split(condition, experiment.dataset, poison, experiment.config)

  def _poison(self, cell: Cell, wait: bool) -> Poison:
    if cell.method in self._external:
      return self._external[cell.method]
    key = cell.method, seed_of(self._experiment.config, cell.seed)
    if key in self._broken:
      raise Lost(self._broken[key])
    made = generation(self._experiment, *key)
    with self._locks.hold("poison", *key, wait=wait) as held:
      if not held:
        raise Busy
      try:
        if not made.workdir.has_poison():
          bindings.record(made, self._images, ("generate",))
          with memory.recorded(made.workdir.memory):
            stages.generate(made)
        return Poison.load(made.workdir.poison, made.dataset)
      except FAILURES as error:
        self._broken[key] = f"no poison: {reason(error)}"
        raise Lost(self._broken[key]) from error


def facts(experiment: Experiment, name: str) -> dict[str, Any]:
  """Returns cost and size of the poisons of a method; empty before the first one is made."""
  config = experiment.config
  made_here = name in config.compare.methods
  found = []
  for seed in seeds(config) if made_here else (config.seed,):
    workdir = generation(experiment, name, seed).workdir
    path = workdir.poison / "manifest.json"
    if files.exists(path):
      found.append((manifests.read(path), memory.read(workdir.memory)))
  if not found:
    return {}
  described = [manifest for manifest, _ in found]
  first, limit = described[0], budget.budget(config.method.epsilon)
  largest = max(manifest["max_delta_255ths"] for manifest in described)
  return {
    "seconds": [manifest["seconds"] for manifest in described] if made_here else [],
    "peak_memory_bytes": max((m for _, m in found if m is not None), default=None),
    "max_delta_255ths": largest,
    "beyond": largest > limit,
    "budget": first.get("budget", f"{first['epsilon_255ths']:g}/255"),
    "psnr_db": first["psnr_db"],
    "ssim": first["ssim"],
    "settings": first["config"]["method"] if made_here else None,
  }
