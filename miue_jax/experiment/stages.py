"""The stages of an experiment: each leaves its result in the workdir, none repeats what is done."""

import dataclasses
import functools
import logging
import pathlib

import jax
import numpy as np

from miue_jax import defences, models, report
from miue_jax.artefact import release
from miue_jax.artefact.poison import Poison
from miue_jax.data import sources
from miue_jax.data.dataset import Dataset
from miue_jax.data.sampling import Draw, stratified
from miue_jax.experiment import evaluate as victims
from miue_jax.experiment import measure as measuring
from miue_jax.experiment import observation
from miue_jax.experiment import workdir as workdirs
from miue_jax.experiment.workdir import Workdir
from miue_jax.machine import files, meshes, processes, sharding
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.progress import Progress, Reporter
from miue_jax.methods import AlternatingSettings, ensemble
from miue_jax.methods.method import Generated, check_classes
from miue_jax.settings.config import Config, Measure, Method, Model
from miue_jax.settings.errors import UserError
from miue_jax.train import fit, layer_features, pretrained

_EXAMPLES = 8  # images shown in the report

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What every stage needs.

  Attributes:
    config: validated settings.
    workdir: where results go.
    dataset: the clean data.
    command: how the program was called, for the report.
  """

  config: Config
  workdir: Workdir
  dataset: Dataset
  command: str

  @property
  def progress(self) -> Reporter:
    """Makes the reporter of a stage."""
    return functools.partial(Progress, self.workdir.tensorboard)


def start(config: Config, workdir: Workdir, command: str, *, need_test: bool) -> Experiment:
  """Checks what can be checked before work starts, opens the devices and reads the data.

  Raises:
    UserError: unknown method, unfit devices, data that cannot be read or changed since last time.
  """
  for name in config.evaluate.defences:
    defences.build(name)
  meshes.start(config.devices, config.batch_sizes)
  dataset = sources.load(config.data, need_test=need_test)
  check_method(config.method, dataset)
  check_victim(config.victim, config, dataset)
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


def check_victim(victim: Model, config: Config, dataset: Dataset) -> None:
  """Checks a victim's network against the images and against what it would start from.

  Raises:
    UserError: the images do not fit it, or the weights are not those of this network.
  """
  image = dataset.train.images.shape[1:]
  module = models.build(victim, dataset.num_classes, image)
  if start := config.victim_fit.start_from:
    shapes = jax.eval_shape(lambda: models.init(module, jax.random.key(0), image))
    pretrained.transplant(pretrained.load(start), shapes)


def pretrain(experiment: Experiment, output: pathlib.Path | None) -> tuple[pathlib.Path, float]:
  """Trains a victim on the clean images, for others to start from.

  Args:
    experiment: `victim`, `victim_fit` and the first of `evaluate.seeds` matter here.
    output: a new `.npz`; by default `pretrained.npz` in the workdir.

  Returns:
    Where its weights lie, and its clean test accuracy (percent).
  """
  config, dataset, workdir = experiment.config, experiment.dataset, experiment.workdir
  if output and processes.from_lead(output.exists):
    raise UserError(f"{output} exists: choose another --output.")
  fitted = fit.fit(
    models.build(config.victim, dataset.num_classes, dataset.train.images.shape[1:]),
    config.victim_fit,
    dataset.train,
    dataset.test,
    seed=config.evaluate.seeds[0],
    name="pretrain",
    checkpoints=Checkpoints(workdir.checkpoints / "pretrain"),
    progress=experiment.progress,
  )
  path = output or workdir.root / "pretrained.npz"
  variables, curve = sharding.fetch((fitted.state.variables, fitted.curve))
  processes.from_lead(lambda: pretrained.save(variables, path))
  return path, float(curve[-1, 2])


def generate(experiment: Experiment) -> None:
  """Makes the poison, or checks the finished one."""
  config, dataset, workdir = experiment.config, experiment.dataset, experiment.workdir
  states = workdir.checkpoints / "generate"
  if processes.from_lead((workdir.poison / "manifest.json").exists):
    _logger.info("The poison in %s is finished.", workdir.poison)
    if processes.is_lead():
      Poison.load(workdir.poison, dataset)  # it raises where something is wrong
  else:
    observer = observation.Observer(dataset, config) if _observes(config) else None
    made = ensemble.generate(
      dataset, config.method, config.seed, states, experiment.progress, observer
    )
    processes.from_lead(lambda: _keep(made, experiment))
  Checkpoints(states).delete()  # also of a poison after whose saving the program was killed


def _observes(config: Config) -> bool:
  """Returns whether generation is observed: the method must alternate."""
  return bool(config.measure.epochs) and isinstance(config.method, AlternatingSettings)


def _keep(made: Generated, experiment: Experiment) -> None:
  """Turns what a method made into the artefact on the disk."""
  config, dataset, workdir = experiment.config, experiment.dataset, experiment.workdir
  extra = {"num_classes": dataset.num_classes, "history": made.history}
  if made.perturbed is not None:
    extra["perturbed"] = made.perturbed
  poison = Poison.make(
    dataset,
    made.delta,
    method=config.method.name,
    epsilon=config.method.epsilon,
    config=dataclasses.asdict(config),
    seed=config.seed,
    seconds=round(made.seconds, 1),
    norm=config.method.norm,
    extra=extra,
  )
  poison.save(workdir.poison)
  _logger.info(
    "Poison of %d images in %s: PSNR %s dB, SSIM %s, %.0f s.",
    len(dataset.train),
    workdir.poison,
    poison.manifest["psnr_db"],
    poison.manifest["ssim"],
    made.seconds,
  )


def evaluate(experiment: Experiment) -> list[dict]:
  """Trains the victims that are missing in results.jsonl."""
  workdir = experiment.workdir
  return victims.rows(
    experiment.dataset,
    Poison.load(workdir.poison, experiment.dataset),
    experiment.config,
    results=workdir.results,
    checkpoints=workdir.checkpoints / "victims",
    progress=experiment.progress,
  )


def check_layers(experiment: Experiment) -> None:
  """Raises a UserError where the victim lacks a layer that is to be measured, before it is made."""
  config, dataset = experiment.config, experiment.dataset
  shape = dataset.train.images.shape[1:]
  module = models.build(config.victim, dataset.num_classes, shape)
  layer_features.select(config.measure.layers, module, shape)


def measure(experiment: Experiment) -> dict:
  """Measures the victims of a finished evaluation, or reads what was measured before."""
  config, workdir = experiment.config, experiment.workdir
  if (finished := processes.from_lead(lambda: _measurement(workdir))) is not None:
    _logger.info("The measurement in %s is finished.", workdir.measurement)
    return finished
  poison = Poison.load(workdir.poison, experiment.dataset)
  measurement = measuring.measured(
    experiment.dataset, poison, config, workdir.checkpoints / "victims"
  )
  processes.from_lead(lambda: files.write_json(workdir.measurement, measurement))
  return measurement


def measure_files(
  features: str, released: str, settings: Measure, output: pathlib.Path | None
) -> str:
  """Measures two files of features; needs neither a dataset nor a model of ours.

  Args:
    features: `FILE.npz` or `FILE.npz:ARRAY`, of the clean images.
    released: the same, of the released images.
    settings: of the estimators.
    output: a new JSON file, or None.

  Returns:
    The table to print.
  """
  if output and output.exists():
    raise UserError(f"{output} exists: choose another --output.")
  found = measuring.between_files(_array(features), _array(released), settings)
  if output:
    files.write_json(output, found)
  return report.information_table(found)


def _array(text: str) -> tuple[pathlib.Path, str]:
  """`FILE.npz:ARRAY` as its two parts; a file may have a colon in its name."""
  path = pathlib.Path(text)
  if path.exists() or ":" not in text:
    return path, ""
  name, _, key = text.rpartition(":")
  return pathlib.Path(name), key


def _measurement(workdir: Workdir) -> dict | None:
  return files.read_json(workdir.measurement) if workdir.measurement.exists() else None


def write_report(experiment: Experiment) -> str:
  """Writes the report of whatever is there and returns the table."""
  return processes.from_lead(lambda: _report(experiment))


def _report(experiment: Experiment) -> str:
  workdir, dataset = experiment.workdir, experiment.dataset
  poison = examples = None
  if (workdir.poison / "manifest.json").exists():
    poison = Poison.load(workdir.poison, dataset)
    shown = _sample(dataset, _EXAMPLES, 0)
    clean = dataset.train.images[shown]
    key = Poison(poison.delta[shown], poison.manifest)
    captions = tuple(dataset.class_names[label] for label in dataset.train.labels[shown])
    examples = report.Examples(clean, key.apply(clean), captions)
  rows = victims.read(workdir.results)
  found = report.Experiment(
    rows,
    config=dataclasses.asdict(experiment.config),
    command=experiment.command,
    manifest=poison.manifest if poison else None,
    measurement=_measurement(workdir),
    examples=examples,
  )
  report.write(workdir.report, found)
  return report.table(rows)


def export(experiment: Experiment, output: pathlib.Path | None, formats: list[str]) -> pathlib.Path:
  """Writes the poisoned training images, by default into the workdir."""
  directory = output or experiment.workdir.images

  def write() -> str:
    poison = Poison.load(experiment.workdir.poison, experiment.dataset)
    return str(release.export(experiment.dataset, poison, directory, formats))

  return pathlib.Path(processes.from_lead(write))


def restore(
  workdir: Workdir, images: pathlib.Path | None, output: pathlib.Path | None
) -> pathlib.Path:
  """Undoes an export with the key alone; needs neither the clean data nor an accelerator."""
  paths = (images or workdir.images, workdir.poison, output or workdir.restored)
  return pathlib.Path(processes.from_lead(lambda: str(release.restore(*paths))))


def _sample(dataset: Dataset, count: int, seed: int) -> np.ndarray:
  """Ids of `count` training images, stratified."""
  return stratified(dataset.train.labels, min(count, len(dataset.train)), seed, Draw.SAMPLE)
