"""Trains the source model of a method on poisoned images."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from miue_jax import models, transforms
from miue_jax.machine.meshes import AXIS
from miue_jax.methods import sign_step
from miue_jax.methods.delta import Delta
from miue_jax.methods.shared_settings import Sourced
from miue_jax.train import step
from miue_jax.transforms import Transformation, augment, identity


def network(
  settings: Sourced, outputs: int, image: tuple[int, int, int], steps: int
) -> tuple[Any, Any]:
  """Returns the source model and its optimiser.

  Args:
    settings: Settings of the method.
    outputs: Number of logits.
    image: Shape `(H, W, C)` of the images.
    steps: Optimiser steps of an epoch.
  """
  module = models.build(settings.model, outputs, image)
  return module, step.sgd(settings.source, settings.epochs, steps)


def start(
  key: Callable[[str], jax.Array],
  module: nn.Module,
  optimiser: Any,
  image: tuple[int, int, int],
  auxiliary: sign_step.Auxiliary | None,
) -> dict[str, Any]:
  """Returns the initial source model and auxiliary network; `key(name)` returns a random key."""
  return {
    "source": step.fresh_state(module, optimiser, key("weights"), image),
    # The name of the stream is part of the results, so it stays.
    "auxiliary": auxiliary.state(module, key("companion"), image) if auxiliary else None,
  }


def freezer(module: nn.Module, image: tuple[int, ...]) -> Callable[[Any], Any]:
  """Returns `Stage.prepared` of a stage whose steps apply the source model without training it."""
  return lambda constants: constants.replace(source=step.Frozen.of(module, constants.source, image))


def transformation(settings: Sourced) -> Transformation:
  """Returns the input transformation of a method: a draw of its `transformations`, if any."""
  names = getattr(settings, "transformations", ())
  return transforms.random_transformation(names) if names else identity


def inputs(settings: Sourced, transformation: Transformation = identity) -> step.Inputs:
  """Returns the inputs of the source model: poisoned images as a victim would see them.

  `Pass.delta` is a pair: the perturbation, and the rows that are perturbed.
  """
  kind = settings.source.augment

  def poisoned(batch, perturbation, rows, keys):
    images = batch.images.astype(jnp.float32) / 255
    delta, perturbed = perturbation
    added = jnp.where(perturbed[rows, None, None, None], delta.rows(rows, batch.labels), 0.0)
    if settings.augment_poisoned:
      return augment(kind, keys, transformation(keys, delta.added(images, added)))
    return transformation(keys, delta.added(augment(kind, keys, images), added))

  return poisoned


def spec(settings: Any) -> tuple[jax.P, jax.P]:
  """Returns the partition specs of `Pass.delta` for `inputs`."""
  return Delta.spec(settings), jax.P(AXIS)
