"""Every cell of the table once: poison, victim, row; what fails is marked and the rest goes on."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from miue_jax import config as configs
from miue_jax import defences, evaluate, models, perturb, processes, report, stages
from miue_jax import poison as artefact
from miue_jax import workdir as workdirs
from miue_jax.arena import bring, memory
from miue_jax.checkpoint import Checkpoints
from miue_jax.config import Config
from miue_jax.errors import UserError
from miue_jax.methods import METHODS
from miue_jax.poison import Poison
from miue_jax.stages import Experiment
from miue_jax.workdir import Workdir

CLEAN = "clean"  # what all are compared with; not a method


class Cell(NamedTuple):
  """One victim to train."""

  method: str
  victim: str
  defence: str
  seed: int


class _Lost(Exception):  # noqa: N818 (not an error of the program)
  """A cell that cannot be filled in this sitting, and why."""


def run(config: Config, workdir: Workdir, command: str) -> str:
  """Fills the table, writes its report and returns it as Markdown.

  Resumes where an earlier sitting stopped: finished poisons and rows stay, lost cells are tried
  again. In a run of several processes a failure ends all of them.

  Raises:
    processes.Interrupted: a signal came; the state is saved.
    UserError: before any work: a name that is not known, things that do not go together, or brought
      images that cannot be used.
  """
  check(config)
  experiment = stages.start(config, workdir, command, need_test=True)
  _check_fit(experiment)
  brought = _brought(experiment)
  for name, seed in itertools.product(config.arena.methods, poison_seeds(config)):
    made = _generation(experiment, name, seed)
    workdirs.open_workdir(made.workdir.root, made.config)  # it refuses another recipe
  todo = processes.from_lead(lambda: missing(experiment))
  total = sum(1 for _ in cells(config))
  logging.info("Arena: %d of %d victims are still to be trained.", len(todo), total)
  broken: dict[tuple[str, int], str] = {}
  columns = itertools.groupby((Cell(*cell) for cell in todo), key=lambda cell: cell[1:])
  text = ""
  for _, column in columns:
    for cell in column:
      try:
        _fill(cell, experiment, brought, broken)
      except _Lost as loss:
        logging.warning("%s: lost: %s", " ".join(map(str, cell)), loss)
        evaluate.append(_losses(workdir), _columns(cell, experiment) | {"reason": str(loss)})
    text = write_report(experiment)
  return text or write_report(experiment)


def check(config: Config) -> None:
  """Checks every name before anything is read.

  Raises:
    UserError: an unknown method, victim or defence (the message lists what is known), a name that
      is used twice, or nothing to compare.
  """
  arena, brought = config.arena, bring.parse(config.arena.bring)
  if not arena.methods and not brought:
    raise UserError("There is nothing to compare: set arena.methods or arena.bring.")
  for name in brought:
    if name in arena.methods or name == CLEAN:
      raise UserError(f"arena.bring uses the name {name!r}, which is taken: choose another one.")
  for name in arena.methods:
    made = configs.for_method(config, name).method.name
    if name == CLEAN or made not in METHODS:
      raise UserError(f"Unknown method {made!r} in arena.methods; known: {_listed(METHODS)}.")
  for name in arena.victims:
    if name not in models.MODELS:
      raise UserError(f"Unknown victim {name!r} in arena.victims; known: {_listed(models.MODELS)}.")
  for name in arena.defences:
    defences.build(name)


def _listed(names) -> str:
  return ", ".join(sorted(names))


def _check_fit(experiment: Experiment) -> None:
  """Raises a UserError where methods, victims or defences do not go with the data or devices."""
  config, dataset = experiment.config, experiment.dataset
  shape, devices = dataset.train.images.shape[1:], jax.sharding.get_mesh().size
  for name in victims_of(config):
    models.build(dataclasses.replace(config.victim, name=name), dataset.num_classes, shape)
  for name in config.arena.methods:
    made = configs.for_method(config, name)
    models.build(made.model, dataset.num_classes, shape)
    if made.method.only_class >= dataset.num_classes:
      raise UserError(
        f"Method {name!r} perturbs class {made.method.only_class} alone, but {dataset.name} has "
        f"classes 0..{dataset.num_classes - 1}: change method.only_class in its recipe."
      )
    if any(size % devices for size in made.batch_sizes):
      raise UserError(
        f"The batch sizes {sorted(set(made.batch_sizes))} of method {name!r} must be divisible by "
        f"the {devices} devices: change its recipe or set devices."
      )
  if any(defences.build(name).needs_clean for name in config.arena.defences):
    evaluate.clean_share(dataset.test, config)
  if config.arena.published == "cifar10" and (dataset.num_classes, shape) != (10, (32, 32, 3)):
    raise UserError(
      f"arena.published=cifar10, but {dataset.name} has {dataset.num_classes} classes and images "
      f"of shape {list(shape)}: leave it empty for other data."
    )


def victims_of(config: Config) -> tuple[str, ...]:
  """Names of the victims' networks."""
  return config.arena.victims or (config.victim.name,)


def seeds_of(config: Config, defence: str) -> tuple[int, ...]:
  """Seeds of the victims with this defence."""
  return (defence != "none" and config.arena.defended_seeds) or config.arena.seeds


def names_of(config: Config) -> tuple[str, ...]:
  """Lines of the table."""
  return (CLEAN, *config.arena.methods, *bring.parse(config.arena.bring))


def cells(config: Config) -> Iterator[Cell]:
  """Every cell, column by column and seed by seed: an early look compares like with like."""
  arena = config.arena
  for seed in dict.fromkeys(arena.seeds + arena.defended_seeds):
    for victim in victims_of(config):
      for defence in arena.defences:
        if seed in seeds_of(config, defence):
          for name in names_of(config):
            yield Cell(name, victim, defence, seed)


def missing(experiment: Experiment) -> list[Cell]:
  """The cells that no row fills."""
  rows = evaluate.read(experiment.workdir.results)
  filled = {tuple(row[key] for key in evaluate.CELL) for row in rows}
  return [
    cell
    for cell in cells(experiment.config)
    if tuple(_columns(cell, experiment).values()) not in filled
  ]


def _columns(cell: Cell, experiment: Experiment) -> dict[str, Any]:
  """The columns of a row that say which cell it fills, in the order of `evaluate.CELL`."""
  return {"dataset": experiment.dataset.name} | cell._asdict()


def _losses(workdir: Workdir) -> pathlib.Path:
  return workdir.root / "lost.jsonl"


def _fill(
  cell: Cell,
  experiment: Experiment,
  brought: dict[str, Poison],
  broken: dict[tuple[str, int], str],
) -> None:
  """Makes the poison if there is none yet, and trains the victim.

  Args:
    cell: which victim on what.
    experiment: the arena.
    brought: poisons that were not made here.
    broken: poisons that could not be made in this sitting, and why; gets another one.

  Raises:
    _Lost: either fails in a way that leaves the other cells possible.
  """
  config = _for_cell(experiment.config, cell)
  states = experiment.workdir.checkpoints / "arena" / cell.method / cell.victim
  key = (cell.method, poison_seed(experiment.config, cell.seed))
  if key in broken:
    raise _Lost(broken[key])
  poison = None
  try:
    if cell.method != CLEAN:
      poison = _poison(experiment, *key, brought)
  except (UserError, jax.errors.JaxRuntimeError) as error:
    broken[key] = f"no poison: {_reason(error)}"
    raise _Lost(broken[key]) from error
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
  Checkpoints(states).delete()


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


def poison_seed(config: Config, seed: int) -> int:
  """The seed of the poison that victims of `seed` learn from."""
  return seed if config.arena.poison_per_seed else config.seed


def poison_seeds(config: Config) -> tuple[int, ...]:
  """Seeds of all poisons of a method."""
  seeds = config.arena.seeds + config.arena.defended_seeds
  return tuple(dict.fromkeys(poison_seed(config, seed) for seed in seeds))


def _generation(experiment: Experiment, name: str, seed: int) -> Experiment:
  """The experiment that makes one poison; `name` may be that of brought images."""
  root = experiment.workdir.root / "poisons" / name / str(seed)
  config = dataclasses.replace(experiment.config, seed=seed)
  if name in config.arena.methods:
    config = configs.for_method(config, name)
  return dataclasses.replace(experiment, config=config, workdir=Workdir(root))


def _poison(experiment: Experiment, name: str, seed: int, brought: dict[str, Poison]) -> Poison:
  if name in brought:
    return brought[name]
  made = _generation(experiment, name, seed)
  if processes.from_lead((made.workdir.poison / "manifest.json").exists):
    return artefact.load(made.workdir.poison, made.dataset)
  workdirs.bind(made.workdir, made.config, made.dataset)
  with memory.recorded(made.workdir.root / "memory.json"):
    stages.generate(made)
  return artefact.load(made.workdir.poison, made.dataset)


def _brought(experiment: Experiment) -> dict[str, Poison]:
  """Checks brought images and keeps them as artefacts.

  Raises:
    UserError: they cannot be used, or are not those that an earlier sitting was given.
  """
  config, poisons = experiment.config, {}
  for name, path in bring.parse(config.arena.bring).items():
    poison = bring.make(name, path, experiment.dataset, config.method, config.seed)
    folder = _generation(experiment, name, config.seed).workdir.poison
    if processes.from_lead((folder / "manifest.json").exists):
      kept = artefact.load(folder, experiment.dataset)
      if not np.array_equal(kept.delta, poison.delta):
        raise UserError(
          f"The images of {path} are not those that {folder} was made from: bring them under "
          "another name."
        )
    else:
      processes.from_lead(lambda poison=poison, folder=folder: artefact.save(poison, folder))
    poisons[name] = poison
  return poisons


def write_report(experiment: Experiment) -> str:
  """Writes the table as far as it is filled and returns it as Markdown."""
  return processes.from_lead(lambda: _report(experiment))


def _report(experiment: Experiment) -> str:
  config, workdir = experiment.config, experiment.workdir
  axes = report.Axes(
    dataset=experiment.dataset.name,
    methods=names_of(config),
    victims=victims_of(config),
    seeds={defence: seeds_of(config, defence) for defence in config.arena.defences},
  )
  facts = {}
  for name in axes.methods[1:]:
    seed = config.seed if name in bring.parse(config.arena.bring) else None
    facts[name] = _facts(experiment, name, seed)
  return report.write_arena(
    workdir.report,
    axes=axes,
    rows=evaluate.read(workdir.results),
    lost=evaluate.read(_losses(workdir)),
    facts=facts,
    published=config.arena.published,
    config=dataclasses.asdict(config),
    command=experiment.command,
  )


def _facts(experiment: Experiment, name: str, seed: int | None) -> dict[str, Any]:
  """What the poisons of a method cost and change; empty before the first one is made."""
  config = experiment.config
  found = []
  for number in (seed,) if seed is not None else poison_seeds(config):
    workdir = _generation(experiment, name, number).workdir
    path = workdir.poison / "manifest.json"
    if path.exists():
      found.append((stages.read_json(path), memory.read(workdir.root / "memory.json")))
  if not found:
    return {}
  manifests = [manifest for manifest, _ in found]
  first, limit = manifests[0], perturb.budget(config.method.epsilon)
  made = "brought_from" not in first
  largest = max(manifest["max_delta_255ths"] for manifest in manifests)
  return {
    "seconds": [manifest["seconds"] for manifest in manifests] if made else [],
    "peak_memory_bytes": max((m for _, m in found if m is not None), default=None),
    "max_delta_255ths": largest,
    "beyond": largest > limit,
    "budget": first.get("budget", f"{first['epsilon_255ths']:g}/255"),
    "psnr_db": first["psnr_db"],
    "ssim": first["ssim"],
  }
