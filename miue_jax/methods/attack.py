"""Provides adversarial poisons: they train a source model on clean images, then attack it.

Delta starts again at every restart, and every image keeps the delta of its best restart.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import models
from miue_jax.machine import loops
from miue_jax.machine.meshes import AXIS
from miue_jax.methods import delta as deltas
from miue_jax.methods import sign_step, source
from miue_jax.methods.delta import DeltaPass
from miue_jax.methods.method import Sizes
from miue_jax.methods.shared_settings import Sourced
from miue_jax.methods.stepwise import Procedure, Reading, Stage, Stepwise, Turn, delta_stage, due
from miue_jax.settings.schema import Count, Positive, settings
from miue_jax.train import step


@settings
class AttackSettings(Sourced):
  """An attack on a source model that was trained on clean images."""

  step_size: Positive = 0.4 / 255  # in [0, 1] pixel units
  restarts: Count = 1  # starts of delta; each image keeps its best
  # Constants, which are fields of methods that alternate.
  class_wise = False
  stop_error = 0.0


@dataclasses.dataclass(frozen=True)
class Attack(Stepwise):
  """A method that attacks a source model trained on clean images.

  Attributes:
    settings: Class of the settings.
    objective: Loss that delta minimises, and by which the restarts of an image are compared.
    auxiliary: Makes, from the settings, a network that learns while delta moves and adds a term to
      `objective`. The term belongs to a batch, so that restarts are compared without it.
  """

  settings: type[AttackSettings]
  objective: sign_step.Objective
  auxiliary: Callable[[Any], sign_step.Auxiliary] | None = None

  def procedure(self, settings: Any, sizes: Sizes, seed: int) -> Procedure:
    """Returns the training and the attacks; see `stepwise.Stepwise`."""
    layout = deltas.lay_out(sizes.train, settings, seed)
    train_steps = layout.steps(settings.source.batch_size, partial=False)
    batches = layout.steps(settings.batch_size, partial=True)
    module, optimiser = source.network(settings, sizes.classes, sizes.image, train_steps)
    auxiliary = self.auxiliary(settings) if self.auxiliary else None
    transformation = source.transformation(settings)
    inputs = step.plain_inputs(settings.source.augment, transformation)
    train = Stage(
      "source",
      settings.source.batch_size,
      train_steps,
      1,
      step.train_step(module, optimiser, inputs, jax.P(AXIS)),
      ("source", "sums"),
      lambda parts, data, perturbed, size: data,
    )
    freeze = source.freezer(module, sizes.image)
    sign_steps = sign_step.delta_step(
      module, settings, self.objective, auxiliary=auxiliary, transformation=transformation
    )
    move = delta_stage(settings, batches * settings.steps, settings.steps, sign_steps, freeze)
    keep = Stage(
      "keep",
      settings.batch_size,
      batches,
      1,
      _keep_step(module, settings, self.objective),
      ("best", "lowest"),
      lambda parts, data, perturbed, size: DeltaPass(
        parts["source"], data.replace(delta=parts["delta"]), perturbed, perturbed, size
      ),
      freeze,
    )
    learned, size = ("source_loss", "source_accuracy"), settings.step_size

    def training(epoch: int) -> Turn:
      reading = Reading("sums", f"the source model, epoch {epoch}", learned)
      save = due(settings, epoch, settings.epochs)
      return Turn(train, epoch, ("source", epoch), (reading,), save=save)

    def attack(restart: int) -> tuple[Turn, Turn]:
      epoch, stream = settings.epochs + restart + 1, ("delta", restart)
      reading = Reading("sums", f"delta, restart {restart + 1}", ("objective",))
      return (
        Turn(move, epoch, stream, step_size=size, start=(seed, restart), reports=False),
        Turn(keep, epoch, stream, (reading,), step_size=size, save=True),
      )

    return Procedure(
      layout,
      (train, move, keep),
      (
        *(training(epoch) for epoch in range(1, settings.epochs + 1)),
        *(turn for restart in range(settings.restarts) for turn in attack(restart)),
      ),
      (*learned, "objective"),
      lambda key, delta: {
        **source.start(key, module, optimiser, sizes.image, auxiliary),
        "best": jax.tree.map(jnp.copy, delta),
        "lowest": np.full(len(delta.stored), np.inf, np.float32),
      },
      {"best": jax.P(AXIS), "lowest": jax.P(AXIS)},
      result="best",
    )


def _keep_step(
  module: nn.Module, settings: AttackSettings, objective: sign_step.Objective
) -> loops.Step:
  """Returns the step that keeps the better delta of every image of a batch.

  The step is `((best, lowest), DeltaPass, index) -> (best, lowest)`. `DeltaPass.data.delta` holds
  the candidates, which are judged on images without augmentation.
  """

  def local(carry, constants, index):
    best, lowest = carry
    rows, batch = constants.data.batch(index)
    candidates = constants.data.delta
    images = batch.images.astype(jnp.float32) / 255 + candidates.rows(rows, batch.labels)
    features, logits = models.infer(module, constants.source.variables, images)
    weights = constants.perturbed[rows].astype(jnp.float32)
    losses = objective(features, logits, batch.labels, weights, settings)
    better = (losses < lowest[rows])[:, None, None, None]
    best = best.put(rows, jnp.where(better, candidates.entries(rows), best.entries(rows)))
    return best, lowest.at[rows].min(losses)

  return jax.shard_map(
    local, in_specs=(jax.P(AXIS), DeltaPass.spec(settings), jax.P()), out_specs=jax.P(AXIS)
  )
