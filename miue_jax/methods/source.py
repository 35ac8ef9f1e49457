"""Trains the source model of a method on poisoned images."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from miue_jax import models
from miue_jax.machine import loops
from miue_jax.machine.meshes import AXIS
from miue_jax.methods.delta import Delta
from miue_jax.methods.method import Phase, Sizes
from miue_jax.methods.settings import Sourced
from miue_jax.train import lanes, step
from miue_jax.transforms import Transformation, augment, identity


def network(settings: Sourced, outputs: int, image: tuple[int, ...], steps: int) -> tuple[Any, Any]:
  """Returns the source model and its optimiser.

  Args:
    settings: Settings of the method.
    outputs: Number of logits.
    image: Shape `(H, W, C)` of the images.
    steps: Optimiser steps of an epoch.
  """
  module = models.build(settings.model, outputs, image)
  return module, step.sgd(settings.source, settings.epochs, steps)


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


def phase(
  settings: Sourced,
  sizes: Sizes,
  layout: lanes.Layout,
  network: tuple[nn.Module, Any],
  train_step: loops.Step,
  steps: int,
  delta: Any = None,
  delta_spec: Any = None,
) -> Phase:
  """Returns the phase of source training.

  Args:
    settings: Settings of the method.
    sizes: Sizes of the dataset.
    layout: Layout of the training images.
    network: The source model and its optimiser.
    train_step: The training step.
    steps: Steps of an epoch.
    delta: Makes an example of `Pass.delta` from the number of rows; None for clean images.
    delta_spec: Its partition specs; by default those of rows.
  """
  batch, (module, optimiser) = settings.source.batch_size, network

  def arguments(images, labels):
    state = step.fresh_state(module, optimiser, jax.random.key(0), sizes.image)
    made = delta(len(images)) if delta else None
    constants = step.example_pass(layout, images, labels, batch, made)
    return (state, step.Sums.empty()), constants

  return Phase(
    "source",
    batch,
    steps,
    settings.epochs,
    steps / layout.steps(batch, partial=False),
    len(layout.ids),
    train_step,
    arguments,
    (jax.P(), step.pass_spec(delta_spec or jax.P(AXIS))),
  )
