"""Checks settings against the data, before devices are opened."""

from collections.abc import Sequence

from miue_jax import models
from miue_jax.data.dataset import Dataset
from miue_jax.methods.method import check_classes
from miue_jax.settings.config import Config, Method, named_batches


def batch_problems(config: Config, images: int, made: Sequence[str]) -> list[str]:
  """Returns what is wrong with the batch sizes for so many training images.

  Args:
    config: The settings.
    images: Number of training images.
    made: Stages that will be made; batches of others do not matter.
  """
  wanted = {}
  if "generate" in made:
    wanted = {f"method.{name}": size for name, size in named_batches(config.method).items()}
  if {"evaluate", "pretrain", "compare"} & set(made):
    wanted["victim_fit.batch_size"] = config.victim_fit.batch_size
  problems = [
    f"--config.{name}={size} is more than the {images} training images"
    for name, size in wanted.items()
    # The pass over delta pads its last batch.
    if size > images and name not in ("method.batch_size", "method.microbatch")
  ]
  problems += [
    f"--config.{name}={size} is not divisible by --config.devices={config.devices}"
    for name, size in wanted.items()
    if config.devices and size % config.devices
  ]
  return problems


def check_method(method: Method, dataset: Dataset) -> None:
  """Checks a method's classes and source model against the images.

  Raises:
    UserError: The dataset lacks a class, or the images do not fit the source model.
  """
  check_classes(method, dataset.name, dataset.num_classes)
  if model := getattr(method, "model", None):
    models.build(model, dataset.num_classes, dataset.train.images.shape[1:])
