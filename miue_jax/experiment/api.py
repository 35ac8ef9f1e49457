"""Provides `protect` and `evaluate`, which work on arrays without a config, mesh or folder."""

import dataclasses
import os
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from miue_jax import defences as known_defences
from miue_jax.artefact.poison import Poison
from miue_jax.data import arrays
from miue_jax.data.dataset import Dataset, Split, checked
from miue_jax.data.images import Images
from miue_jax.experiment import bindings, calls, stages, table
from miue_jax.experiment import workdir as workdirs
from miue_jax.experiment.results import Row
from miue_jax.experiment.table import Axes, Table
from miue_jax.experiment.workdir import Experiment
from miue_jax.methods import METHODS, ensemble
from miue_jax.settings import schema
from miue_jax.settings.config import Compare, Config, Fit, Method, Model, batch_sizes
from miue_jax.settings.errors import UserError

_NAME = "arrays"  # the dataset in rows


def protect(
  images: Any,
  labels: Any,
  method: str = "miue",
  *,
  epsilon: float | None = None,
  seed: int = 0,
  settings: Method | None = None,
  workdir: str | os.PathLike[str] | None = None,
  progress: bool | None = None,
  **changes: Any,
) -> Poison:
  """Makes a perturbation that keeps models from learning the images.

  A mesh whose only axis is "data" is used if it is set, otherwise as many devices as divide the
  batches. A device of a CPU uses little more than one core: set the environment variable
  `JAX_NUM_CPU_DEVICES` to the number of cores before jax is imported. A batch that is larger than
  the data becomes as large as the data.

  Args:
    images: Training images, uint8 `[N, H, W]` or `[N, H, W, C]` with one or three channels.
    labels: Integer labels `[N]` or `[N, 1]`: 0, 1, 2, ..., each of at least two images.
    method: Name of a method (`miue_jax.methods.METHODS`).
    epsilon: Budget in [0, 1] pixel units; None takes the method's, 8/255 for most.
    seed: Seed of the source model, the order of images and every random draw.
    settings: Settings of the method, such as `miue_jax.methods.miue.Settings(epochs=50)`; None
      takes the values of the method's paper.
    workdir: Folder for the poison, checkpoints and TensorBoard: the same call continues there. None
      writes nothing to the disk.
    progress: Whether to show a progress bar; None shows one in a terminal or notebook.
    **changes: Settings of the method that differ, such as `epochs=8` or `model={"width": 16}`.

  Returns:
    The poison: `apply` adds it to the images, and `restore` removes it bit for bit.

  Raises:
    UserError: An argument cannot be used, or a loss is not finite.
    KeyboardInterrupt: The call was interrupted; a workdir holds the state.

  Example:
    >>> poison = protect(x_train, y_train, method="miue", epsilon=8 / 255, epochs=8)
    >>> x_public = poison.apply(x_train)
  """
  pixels = arrays.images(images, "Images")
  classes = arrays.labels(labels, len(pixels), "Labels")
  names = arrays.class_names(classes, _NAME)
  dataset = checked(Dataset(_NAME, Split(Images(pixels), classes), None, names))
  if epsilon is not None:
    changes["epsilon"] = epsilon
  made = _fitting(_method(method, settings, changes), len(pixels))
  config = Config(name=_NAME, seed=seed, method=made)
  with calls.on_devices(*batch_sizes(made)):
    stages.check_method(made, dataset)
    folder = None if workdir is None else workdirs.open_workdir(workdir)
    experiment = Experiment(config, folder, dataset, bar=calls.shows_bar(progress))
    if folder is None:
      found = ensemble.generate(dataset, made, config.seed, None, experiment.progress)
      return stages.poison_of(found, experiment)
    images = bindings.fingerprints(dataset)
    with workdirs.occupied(folder, alone=True):
      bindings.check(experiment, images, ("generate",))
      bindings.record(experiment, images, ("generate",))
      stages.generate(experiment)
      return Poison.load(folder.poison, dataset)


def _method(name: str, settings: Method | None, changes: Mapping[str, Any]) -> Method:
  """Returns the settings of a method with changes."""
  if not isinstance(name, str) or name not in METHODS:
    raise UserError(f"There is no method {name!r}; choose one of {', '.join(sorted(METHODS))}.")
  kind = METHODS[name].settings
  if settings is None:
    settings = kind()
  elif type(settings) is not kind:  # settings of a subclass are those of another method
    raise UserError(
      f"settings are {type(settings).__module__}.{type(settings).__name__}; method {name!r} takes "
      f"{kind.__module__}.{kind.__name__}."
    )
  if changes.get("name", name) != name:
    raise UserError(f"name={changes['name']!r} differs from method={name!r}: leave it out.")
  return schema.changed(settings, {**changes, "name": name})


def _fitting(settings: Method, count: int) -> Method:
  """Returns settings whose batches are not larger than the data and divisible by the devices."""
  changes: dict[str, Any] = {}
  if getattr(settings, "batch_size", 0) > count:
    changes["batch_size"] = _whole(count)
    if getattr(settings, "microbatch", 0):
      changes["microbatch"] = 0
  source = getattr(settings, "source", None)
  if source and source.batch_size > count:
    changes["source"] = dataclasses.replace(source, batch_size=_whole(count))
  return dataclasses.replace(settings, **changes)


def _whole(count: int) -> int:
  """Returns the largest multiple of the number of devices up to `count`."""
  devices = calls.device_count()
  return count - count % devices or count


def evaluate(
  images: Mapping[str, Any],
  labels: Any,
  test: tuple[Any, Any],
  *,
  victims: Iterable[str] = ("resnet18",),
  defences: Iterable[str] = ("none",),
  seeds: Iterable[int] = (0,),
  workdir: str | os.PathLike[str] | None = None,
  progress: bool | None = None,
  **recipe: Any,
) -> list[Row]:
  """Trains victims on sets of training images and tests them on clean images.

  A mesh whose only axis is "data" is used if it is set, otherwise as many devices as divide a
  batch. A batch that is larger than the data becomes as large as the data.

  Args:
    images: Training images by name, uint8 `[N, H, W]` or `[N, H, W, C]`; all have the same labels.
    labels: Integer labels `[N]` or `[N, 1]`: 0, 1, 2, ..., each of at least two images.
    test: Clean test images and their labels.
    victims: Names of networks (`miue_jax.models.MODELS`).
    defences: Names of defences (`miue_jax.defences`).
    seeds: Seeds of initial weights, order and augmentation.
    workdir: Folder for rows, checkpoints and TensorBoard: the same call continues there, and a
      later call may add names, victims, defences and seeds. None writes nothing to the disk.
    progress: Whether to show progress bars; None shows them in a terminal or notebook.
    **recipe: Settings of the training (`Fit`, such as `epochs` or `batch_size`) or of the networks
      (`Model`, such as `width` or `dtype`).

  Returns:
    One row for each set of images, victim, defence and seed: `method` (the name in `images`),
    `victim`, `defence`, `seed`, `test_accuracy` (percent), `curve` and others.

  Raises:
    UserError: An argument cannot be used, or a loss is not finite.
    KeyboardInterrupt: The call was interrupted; a workdir holds the state.

  Example:
    >>> rows = evaluate({"clean": x, "miue": poison.apply(x)}, y, (x_test, y_test), epochs=60)
  """
  datasets = _datasets(images, labels, test)
  data = dataclasses.replace(next(iter(datasets.values())), name=_NAME)
  config = _config(len(data.train), tuple(images), victims, defences, seeds, recipe)
  wanted = config.compare
  folder = None if workdir is None else workdirs.open_workdir(workdir)
  with calls.on_devices(config.victim_fit.batch_size):
    made = Table(
      Experiment(config, folder, data, bar=calls.shows_bar(progress)),
      Axes(wanted.methods, wanted.victims, wanted.defences, wanted.seeds),
      lambda cell, wait: datasets[cell.method].train,
    )
    made.check()
    if folder:
      _bind(made.experiment, datasets)
    table.fill([made])
    return made.rows()


def _datasets(images: Any, labels: Any, test: Any) -> dict[str, Dataset]:
  """Returns a checked dataset for each set of training images."""
  named = isinstance(images, Mapping) and all(isinstance(name, str) and name for name in images)
  if not named or not images:
    raise UserError('images must be a dict of arrays by name, such as {"clean": x_train}.')
  if not isinstance(test, tuple | list) or len(test) != 2:
    raise UserError("test must be a pair of arrays, (x_test, y_test).")
  x_test = arrays.images(test[0], "Test images")
  y_test = arrays.labels(test[1], len(x_test), "Test labels")
  if unfit := {".", ".."} & set(images):  # names become folders
    raise UserError(f"images has the name {min(unfit)!r}: choose another.")
  tested = Split(Images(x_test), y_test)
  splits = {}
  for name, value in images.items():
    pixels = arrays.images(value, f"Images {name!r}")
    splits[name] = Split(Images(pixels), arrays.labels(labels, len(pixels), "Training labels"))
  # All sets have the same labels.
  names = arrays.class_names(np.concatenate([next(iter(splits.values())).labels, y_test]), _NAME)
  return {name: checked(Dataset(name, split, tested, names)) for name, split in splits.items()}


def _config(
  count: int, methods: tuple[str, ...], victims: Any, defences: Any, seeds: Any, recipe: dict
) -> Config:
  """Returns the settings of a call."""
  fields = {kind: set(schema.names(kind)) - {"name"} for kind in (Fit, Model)}
  for key in recipe:
    if key not in fields[Fit] | fields[Model]:
      raise UserError(schema.unknown(key, sorted(fields[Fit] | fields[Model])))
  fit, model = ({k: v for k, v in recipe.items() if k in known} for known in fields.values())
  default = Config()
  made = schema.changed(default.victim_fit, fit)
  made = dataclasses.replace(made, batch_size=min(made.batch_size, count))
  compare = schema.make(
    Compare,
    {"methods": methods}
    | {
      key: (value,) if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
      for key, value in {"victims": victims, "defences": defences, "seeds": seeds}.items()
    },
  )
  if not compare.victims:
    raise UserError("Setting victims is (); it must have at least one entry.")
  for name in compare.defences:
    known_defences.build(name)
  victim = schema.changed(default.victim, model)
  return Config(name=_NAME, victim=victim, victim_fit=made, compare=compare)


def _bind(experiment: Experiment, datasets: Mapping[str, Dataset]) -> None:
  """Ties a folder to the settings and the test images, and a part of it to each named set."""
  data = experiment.dataset
  tests = {"test images": dataclasses.replace(data, train=data.test_set).fingerprint}
  places = [(experiment, tests, ("compare",))]
  for name, dataset in datasets.items():
    root = experiment.workdir.root / "sets" / urllib.parse.quote(name, safe="")
    part = dataclasses.replace(experiment, folder=workdirs.open_workdir(root), dataset=dataset)
    places.append((part, {"training images": dataset.fingerprint}, ("set",)))
  for place in places:
    bindings.check(*place)
  for place in places:
    bindings.record(*place)
