"""Provides the stages of an experiment: each writes its result and skips what is finished."""

import dataclasses
import logging
import pathlib
from typing import Any

from miue_jax import defences, models, report
from miue_jax.artefact import release
from miue_jax.artefact.poison import Poison
from miue_jax.data import sources
from miue_jax.data.dataset import Dataset
from miue_jax.data.sampling import Draw, stratified
from miue_jax.experiment import measure as measuring
from miue_jax.experiment import observation, schemas, table, victims
from miue_jax.experiment import workdir as workdirs
from miue_jax.experiment.results import Row, Rows
from miue_jax.experiment.table import Axes, Table
from miue_jax.experiment.workdir import Experiment, Workdir
from miue_jax.machine import documents, files, meshes, sharding
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.methods import AlternatingSettings, ensemble
from miue_jax.methods.method import Generated, check_classes
from miue_jax.settings.config import Config, Measure, Method
from miue_jax.train import fit, layer_features, pretrained

_EXAMPLES = 8  # images shown in the report

_logger = logging.getLogger(__name__)


def start(config: Config, workdir: Workdir, command: str, *, need_test: bool) -> Experiment:
  """Checks what can be checked before work starts, opens the devices and reads the data.

  Raises:
    UserError: A method or defence is unknown, devices or networks do not fit, or the data cannot be
      read or changed since an earlier run.
  """
  for name in config.evaluate.defences:
    defences.build(name)
  meshes.start(config.devices, config.batch_sizes)
  dataset = sources.load(config.data, need_test=need_test)
  check_method(config.method, dataset)
  victims.check(config.victim, config, dataset)
  workdirs.bind(workdir, config, dataset)
  return Experiment(config, workdir, dataset, command)


def check_method(method: Method, dataset: Dataset) -> None:
  """Checks a method's classes and source model against the images.

  Raises:
    UserError: The dataset lacks a class, or the images do not fit the source model.
  """
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
  if output:
    workdir.on_lead(lambda: files.require_new(output, "--output"))
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
  if workdir.has_poison():
    _logger.info("The poison in %s is finished.", workdir.poison)
    Poison.load(workdir.poison, dataset)  # raises an error if it is damaged
  else:
    alternates = isinstance(config.method, AlternatingSettings)
    observed = bool(config.measure.epochs) and alternates
    observer = observation.Observer(dataset, config, workdir) if observed else None
    made = ensemble.generate(
      dataset, config.method, config.seed, states, experiment.progress, observer
    )
    workdir.on_lead(lambda: _keep(made, experiment))
  # A program that was killed after it saved its poison leaves states as well.
  Checkpoints(states).delete()


def poison_of(made: Generated, config: Config, dataset: Dataset) -> Poison:
  """Returns the poison of a finished generation."""
  assert made.delta is not None, "only the lead process holds the perturbation"
  extra: dict[str, Any] = {"num_classes": dataset.num_classes, "history": made.history}
  if made.perturbed is not None:
    extra["perturbed"] = made.perturbed
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
  poison = poison_of(made, experiment.config, experiment.dataset)
  poison.save(workdir.poison)
  _logger.info(
    "Poison of %d images in %s: PSNR %s dB, SSIM %s, %.0f s.",
    len(experiment.dataset.train),
    workdir.poison,
    poison.manifest["psnr_db"],
    poison.manifest["ssim"],
    made.seconds,
  )


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


def measure_files(
  features: str, released: str, settings: Measure, output: pathlib.Path | None
) -> str:
  """Measures two files of features; needs neither a dataset nor one of our models.

  Args:
    features: `FILE.npz` or `FILE.npz:ARRAY`, features of the clean images.
    released: The same for the released images.
    settings: Settings of the estimators.
    output: A new JSON file, or None.

  Returns:
    The table to print.
  """
  if output:
    files.require_new(output, "--output")
  found = measuring.between_files(_array(features), _array(released), settings)
  if output:
    files.write_json(output, found)
  return report.information_table(found)


def _array(text: str) -> tuple[pathlib.Path, str]:
  """Returns the two parts of `FILE.npz:ARRAY`; the name of a file may contain a colon."""
  path = pathlib.Path(text)
  if files.exists(path) or ":" not in text:
    return path, ""
  name, _, key = text.rpartition(":")
  return pathlib.Path(name), key


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
    return str(release.export(experiment.dataset, poison, directory, formats))

  return pathlib.Path(workdir.on_lead(write))


def restore(
  workdir: Workdir, images: pathlib.Path | None, output: pathlib.Path | None
) -> pathlib.Path:
  """Restores an export with the key; needs neither the clean data nor an accelerator."""
  paths = (images or workdir.images, workdir.poison, output or workdir.restored)
  return pathlib.Path(workdir.on_lead(lambda: str(release.restore(*paths))))
