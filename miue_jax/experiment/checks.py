"""Checks settings against the data, before devices are opened."""

from miue_jax import models
from miue_jax.data.dataset import Dataset
from miue_jax.methods.method import check_classes
from miue_jax.settings.config import Method


def check_method(method: Method, dataset: Dataset) -> None:
  """Checks a method's classes and source model against the images.

  Raises:
    UserError: The dataset lacks a class, or the images do not fit the source model.
  """
  check_classes(method, dataset.name, dataset.num_classes)
  if model := getattr(method, "model", None):
    models.build(model, dataset.num_classes, dataset.train.images.shape[1:])
