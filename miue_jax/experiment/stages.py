"""Provides the stages of an experiment: each writes its result and skips what is finished."""

import contextlib
import dataclasses
import logging
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from miue_jax import defences, models, report
from miue_jax.artefact import manifest as manifests
from miue_jax.artefact import release
from miue_jax.artefact.poison import Poison
from miue_jax.data import sources
from miue_jax.data.dataset import Dataset
from miue_jax.data.sampling import Draw, stratified
from miue_jax.experiment import bindings, observation, schemas, table, victims
from miue_jax.experiment.results import Row, Rows
from miue_jax.experiment.table import Axes, Table
from miue_jax.experiment.workdir import Experiment, Workdir
from miue_jax.machine import documents, files, leftovers, meshes, sharding
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.methods import METHODS, AlternatingSettings, Pattern, ensemble
from miue_jax.methods.method import Generated, check_classes
from miue_jax.settings.config import Config, Method, batch_problems
from miue_jax.settings.errors import UserError
from miue_jax.train import fit, layer_features, pretrained

_EXAMPLES = 8  # images shown in the report

_logger = logging.getLogger(__name__)


def start(
  config: Config,
  workdir: Workdir,
  command: str,
  *,
  need_test: bool = True,
  needs_poison: bool = False,
  checked: Sequence[str] = (),
  made: Sequence[str] = (),
) -> Experiment:
  """Checks all that can be checked before work starts, reads the data and opens the devices.

  Args:
    config: The settings.
    workdir: The folder.
    command: The command line, for the report.
    need_test: Whether the test images are needed.
    needs_poison: Whether the poison must be finished.
    checked: Stages of the workdir whose settings must be the same.
    made: The stages among them that will run; an empty sequence writes nothing.

  Raises:
    UserError: A name is unknown, batches, devices or networks do not fit, the data cannot be read,
      or an earlier run used other images or settings.
  """
  for name in config.evaluate.defences:
    defences.build(name)
  if needs_poison:
    workdir.on_lead(lambda: manifests.read(workdir.poison / "manifest.json") and None)
  dataset = bindings.named(workdir, config, sources.load(config.data, need_test=need_test))
  check_method(config.method, dataset)
  if problems := batch_problems(config, len(dataset.train), made, config.devices):
    raise UserError(f"{'; '.join(problems)}: change these settings.")
  if "generate" in made and not workdir.has_poison():
    size = math.prod(dataset.train.images.shape)  # delta has a byte for each value
    workdir.on_lead(lambda: files.require_space(workdir.root, size))
  images = bindings.fingerprints(dataset)
  experiment = Experiment(config, workdir, dataset, command)
  bindings.check(experiment, images, checked)
  if "measure" in made:
    check_layers(experiment)
  meshes.start(config.devices, config.batch_sizes)
  victims.check(config, dataset)
  if made:
    bindings.record(experiment, images, made)
  return experiment


_ALL = ("generate", "evaluate", "measure")
# Arguments of `start`, by the modes of the program that work on one experiment.
NEEDS: dict[str, dict[str, Any]] = {
  "run": {"checked": _ALL, "made": _ALL},
  "generate": {"checked": ("generate",), "made": ("generate",), "need_test": False},
  "evaluate": {"checked": _ALL[:2], "made": ("evaluate",), "needs_poison": True},
  "measure": {"checked": _ALL, "made": ("measure",), "needs_poison": True},
  "report": {"checked": _ALL},
  "export": {"checked": ("generate",), "need_test": False, "needs_poison": True},
  "pretrain": {"checked": ("pretrain",), "made": ("pretrain",)},
}


def check_method(method: Method, dataset: Dataset) -> None:
  """Raises a UserError if a method's classes or source model do not fit the data."""
  check_classes(method, dataset.name, dataset.num_classes)
  if model := getattr(method, "model", None):
    models.build(model, dataset.num_classes, dataset.train.images.shape[1:])


def pretrain(experiment: Experiment, output: pathlib.Path | None) -> tuple[pathlib.Path, float]:
  """Trains a victim on the clean images, from which others can start.

  Args:
    experiment: The experiment: `victim`, `victim_fit` and the first of `evaluate.seeds`.
    output: A new `.npz` file; None is `pretrained.npz` in the workdir.

  Returns:
    The path of the weights, and the clean test accuracy (percent).
  """
  config, dataset, workdir = experiment.config, experiment.dataset, experiment.workdir
  fitted = fit.fit(
    models.build(config.victim, dataset.num_classes, dataset.train.images.shape[1:]),
    config.victim_fit,
    dataset.train,
    dataset.test_set,
    seed=config.evaluate.seeds[0],
    name="pretrain",
    checkpoints=Checkpoints(workdir.checkpoints / "pretrain"),
    progress=experiment.progress,
  )
  path = output or workdir.root / "pretrained.npz"
  variables, curve = sharding.fetch((fitted.state.variables, fitted.curve))
  workdir.on_lead(lambda: pretrained.save(variables, path))
  return path, float(curve[-1, 2])


def generate(experiment: Experiment) -> None:
  """Makes the poison, or checks the finished one."""
  config, dataset, workdir = experiment.config, experiment.dataset, experiment.workdir
  states = workdir.checkpoints / "generate"
  workdir.on_lead(lambda: files.make_private(workdir.checkpoints))
  if workdir.has_poison():
    _logger.info("The poison in %s is finished.", workdir.poison)
    Poison.load(workdir.poison, dataset)  # raises an error if it is damaged
  else:
    alternates = isinstance(config.method, AlternatingSettings)
    observed = bool(config.measure.epochs) and alternates
    observer = observation.Observer(experiment) if observed else None
    made = ensemble.generate(
      dataset, config.method, config.seed, states, experiment.progress, observer
    )
    workdir.on_lead(lambda: _keep(made, experiment))
  # A program that was killed after it saved its poison leaves states as well.
  Checkpoints(states).delete()


def poison_of(made: Generated, experiment: Experiment) -> Poison:
  """Returns the poison of a finished generation."""
  config, dataset = experiment.config, experiment.dataset
  assert made.delta is not None, "only the lead process holds the perturbation"
  extra: dict[str, Any] = {"num_classes": dataset.num_classes, "history": made.history}
  if made.perturbed is not None:
    extra["perturbed"] = made.perturbed
  rows, unnamed = dataset.train.rows, dataset.train.files is None
  if unnamed and rows is not None and not np.array_equal(rows, np.arange(len(rows))):
    extra["source_rows"] = rows  # Image i is row source_rows[i] of what was read.
  return Poison.make(
    dataset,
    made.delta,
    method=config.method.name,
    epsilon=config.method.epsilon,
    config=dataclasses.asdict(config),
    seed=config.seed,
    seconds=round(made.seconds, 1),
    norm=getattr(config.method, "norm", "linf"),
    extra=extra,
  )


def _keep(made: Generated, experiment: Experiment) -> None:
  """Writes the poison."""
  workdir = experiment.workdir
  poison = poison_of(made, experiment)
  poison.save(workdir.poison)
  _logger.info(
    "Poison of %d images in %s: %s, %.0f s.",
    len(experiment.dataset.train),
    workdir.poison,
    _quality(poison.manifest),
    made.seconds,
  )


def _quality(manifest: Mapping[str, Any]) -> str:
  """Returns how much the images changed, as reports show it."""
  known = dict(report.quality(manifest))
  shown = [f"{name} {known[name]}" for name in ("PSNR", "SSIM") if name in known]
  return ", ".join(shown) or "no image is changed"


def _table(experiment: Experiment) -> Table:
  """Returns the table of an experiment, whose lines are the conditions of one poison."""
  config, dataset = experiment.config, experiment.dataset
  wanted, poison = config.evaluate, Poison.load(experiment.workdir.poison, dataset)
  conditions = {config.method.name if c == "poison" else c: c for c in wanted.conditions}
  return Table(
    experiment,
    Axes(tuple(conditions), (config.victim.name,), wanted.defences, wanted.seeds),
    lambda cell, wait: victims.training_split(conditions[cell.method], dataset, poison, config),
    keeps=True,
  )


def evaluate(experiment: Experiment) -> list[Row]:
  """Trains the victims that are missing in results.jsonl and returns all rows."""
  made = _table(experiment)
  table.fill([made])
  return made.rows()


def check_layers(experiment: Experiment) -> None:
  """Raises a UserError if the victim lacks a layer that will be measured."""
  config, dataset = experiment.config, experiment.dataset
  shape = dataset.train.images.shape[1:]
  module = models.build(config.victim, dataset.num_classes, shape)
  layer_features.select(config.measure.layers, module, shape)


def measure(experiment: Experiment) -> dict[str, Any]:
  """Measures the victims of a finished evaluation, or returns the finished measurement."""
  workdir = experiment.workdir
  if (finished := workdir.on_lead(lambda: _measurement(workdir))) is not None:
    _logger.info("The measurement in %s is finished.", workdir.measurement)
    return finished
  made = _table(experiment)
  found = [made.measurement(cell, made.split(cell, True)) for cell in made.axes.measured()]
  measurement = {"settings": found[0]["settings"]} | {
    key: [row for one in found for row in one[key]] for key in ("rows", "theory")
  }
  workdir.on_lead(lambda: files.write_json(workdir.measurement, measurement))
  return measurement


def _measurement(workdir: Workdir) -> dict[str, Any] | None:
  """Returns the finished measurement, which is not trusted; None before it is finished."""
  if not files.exists(workdir.measurement):
    return None
  return documents.read_json(workdir.measurement, schema=schemas.Measurement)


def write_report(experiment: Experiment) -> str:
  """Writes the report of all results so far and returns the table."""
  return experiment.workdir.on_lead(lambda: _report(experiment))


def _report(experiment: Experiment) -> str:
  workdir, dataset = experiment.workdir, experiment.dataset
  poison = examples = None
  if files.exists(workdir.poison / "manifest.json"):
    poison = Poison.load(workdir.poison, dataset)
    labels = dataset.train.labels
    shown = stratified(labels, min(_EXAMPLES, len(labels)), 0, Draw.SAMPLE)
    clean = dataset.train.images[shown]
    key = Poison(poison.delta[shown], poison.manifest)
    captions = tuple(dataset.class_names[label] for label in labels[shown])
    examples = report.Examples(clean, key.apply(clean), captions)
  rows = Rows(workdir.results).read()
  found = report.Experiment(
    rows,
    config=dataclasses.asdict(experiment.config),
    command=experiment.command,
    manifest=poison.manifest if poison else None,
    measurement=_measurement(workdir),
    examples=examples,
  )
  files.write_texts(workdir.report, found.files)
  return report.table(rows)


def export(experiment: Experiment, output: pathlib.Path | None, formats: list[str]) -> pathlib.Path:
  """Writes the poisoned training images, by default into the workdir."""
  workdir, directory = experiment.workdir, output or experiment.workdir.images

  def write() -> str:
    poison = Poison.load(workdir.poison, experiment.dataset)
    if warning := secrecy_warning(poison.manifest):
      _logger.warning("%s", warning)
    with _again(directory, output):
      return str(release.export(experiment.dataset, poison, directory, formats, workdir.poison))

  return pathlib.Path(workdir.on_lead(write))


def secrecy_warning(manifest: Mapping[str, Any]) -> str:
  """Returns a warning about a poison that can be drawn again without its key, or nothing."""
  name, settings = manifest["method"], manifest["config"].get("method", {})
  if not isinstance(METHODS.get(name), Pattern) or settings.get("secret") is True:
    return ""
  advice = "choose another method"
  if name != "ops":
    advice = "generate it again with --config.method.secret=True"
  return (
    f"Anyone who knows or guesses the seed {manifest['seed']} can draw the pattern of "
    f"{name!r} and restore these images without the key: before you publish them, {advice}."
  )


def restore(
  workdir: Workdir, images: pathlib.Path | None, output: pathlib.Path | None
) -> tuple[pathlib.Path, int]:
  """Restores an export with the key; needs neither the clean data nor an accelerator.

  Returns:
    The folder of the restored images, and the number of files that were not restored.
  """
  directory = output or workdir.restored

  def write() -> int:
    with _again(directory, output):
      return release.restore(images or workdir.images, workdir.poison, directory)

  return directory, workdir.on_lead(write)


def _again(
  directory: pathlib.Path, output: pathlib.Path | None
) -> contextlib.AbstractContextManager[None]:
  """Lets a block replace a folder of the workdir, but not one that the user named."""
  return contextlib.nullcontext() if output else leftovers.set_aside(directory)
