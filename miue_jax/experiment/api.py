"""Provides `evaluate`, which trains victims on arrays without a config, mesh or folder."""

import dataclasses
import os
import signal
import sys
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from miue_jax import defences as known_defences
from miue_jax.data import arrays
from miue_jax.data.dataset import Dataset, Split, checked
from miue_jax.experiment import table
from miue_jax.experiment import workdir as workdirs
from miue_jax.experiment.results import Row
from miue_jax.experiment.table import Axes, Table
from miue_jax.experiment.workdir import Experiment, Workdir
from miue_jax.machine import meshes, processes
from miue_jax.settings import schema
from miue_jax.settings.config import Compare, Config, Fit, Model
from miue_jax.settings.errors import UserError

_NAME = "arrays"  # the dataset in rows


def evaluate(
  images: Mapping[str, Any],
  labels: Any,
  test: tuple[Any, Any],
  *,
  victims: Iterable[str] = ("resnet18",),
  defences: Iterable[str] = ("none",),
  seeds: Iterable[int] = (0,),
  workdir: str | os.PathLike | None = None,
  progress: bool | None = None,
  **recipe: Any,
) -> list[Row]:
  """Trains victims on sets of training images and tests them on clean images.

  A mesh whose only axis is "data" is used if it is set, otherwise all devices that divide a batch.
  A batch that is larger than the data becomes as large as the data.

  Args:
    images: Training images by name, uint8 `[N, H, W]` or `[N, H, W, C]`; all have the same labels.
    labels: Integer labels `[N]` or `[N, 1]`.
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
  folder = None if workdir is None else workdirs.open_workdir(workdir, config)
  with jax.set_mesh(_mesh(config.victim_fit.batch_size)):
    made = Table(
      Experiment(config, folder, data, bar=shows_bar(progress)),
      Axes(wanted.methods, wanted.victims, wanted.defences, wanted.seeds),
      lambda cell, wait: datasets[cell.method].train,
    )
    made.check()
    if folder:
      _bind(folder, config, datasets)
    try:
      table.fill([made])
    except processes.Interrupted as stop:
      signal.raise_signal(stop.signum)  # to the caller's handler, which is installed again
      raise
    return made.rows()


def shows_bar(progress: bool | None) -> bool:
  """Returns whether progress bars are shown; None asks for a terminal or a notebook."""
  return sys.stderr.isatty() or "ipykernel" in sys.modules if progress is None else progress


def _datasets(images: Any, labels: Any, test: Any) -> dict[str, Dataset]:
  """Returns a checked dataset for each set of training images."""
  named = isinstance(images, Mapping) and all(isinstance(name, str) and name for name in images)
  if not named or not images:
    raise UserError('images must be a dict of arrays by name, such as {"clean": x_train}.')
  if not isinstance(test, tuple | list) or len(test) != 2:
    raise UserError("test must be a pair of arrays, (x_test, y_test).")
  x_test = arrays.images(test[0], "Test images")
  y_test = arrays.labels(test[1], len(x_test), "Test labels")
  splits = {}
  for name, value in images.items():
    pixels = arrays.images(value, f"Images {name!r}")
    splits[name] = Split(pixels, arrays.labels(labels, len(pixels), "Training labels"))
  largest = max(int(y.max(initial=0)) for y in (y_test, *(s.labels for s in splits.values())))
  names = tuple(map(str, range(largest + 1)))
  return {
    name: checked(Dataset(name, split, Split(x_test, y_test), names))
    for name, split in splits.items()
  }


def _config(
  count: int, methods: tuple[str, ...], victims: Any, defences: Any, seeds: Any, recipe: dict
) -> Config:
  """Returns the settings of a call.

  Raises:
    UserError: A setting is unknown or makes no sense.
  """
  fields = {kind: set(schema.names(kind)) - {"name"} for kind in (Fit, Model)}
  for key in recipe:
    if key not in fields[Fit] | fields[Model]:
      raise UserError(schema.unknown(key, sorted(fields[Fit] | fields[Model])))
  fit, model = ({k: v for k, v in recipe.items() if k in known} for known in fields.values())
  default = Config()
  made = schema.make(Fit, dataclasses.asdict(default.victim_fit) | fit)
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
  victim = schema.make(Model, dataclasses.asdict(default.victim) | model)
  return Config(name=_NAME, victim=victim, victim_fit=made, compare=compare)


def _mesh(batch_size: int) -> jax.sharding.Mesh:
  """Returns the mesh of a call; steps need the axis type Auto."""
  current = jax.sharding.get_mesh()
  if current.axis_names != (meshes.AXIS,):
    available = jax.device_count()
    return meshes.make(max(n for n in range(1, available + 1) if batch_size % n == 0), ())
  if batch_size % current.size:
    raise UserError(
      f"batch_size={batch_size} must be divisible by the {current.size} devices of the mesh."
    )
  return jax.sharding.Mesh(
    current.devices, (meshes.AXIS,), axis_types=(jax.sharding.AxisType.Auto,)
  )


def _bind(folder: Workdir, config: Config, datasets: Mapping[str, Dataset]) -> None:
  """Ties a folder to the settings and the test images, and a part of it to each named set."""
  any_set = next(iter(datasets.values()))
  tested = dataclasses.replace(any_set, name=_NAME, train=any_set.test)
  workdirs.bind(folder, config, tested, "test images")
  for name, dataset in datasets.items():
    root = folder.root / "sets" / urllib.parse.quote(name, safe="")
    workdirs.bind(workdirs.open_workdir(root, config), config, dataset)
