"""Provides bi-level methods: they train the source model, move delta, and repeat."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import numpy as np
import optax

from miue_jax import budget
from miue_jax.machine import loops
from miue_jax.methods import delta as deltas
from miue_jax.methods import sign_step, source
from miue_jax.methods.method import Sizes
from miue_jax.methods.shared_settings import AlternatingSettings
from miue_jax.methods.stepwise import Procedure, Reading, Stage, Stepwise, Turn, delta_stage, due
from miue_jax.train import step
from miue_jax.transforms import Adversary, Hooks

# (source model, its optimiser, settings) -> the step of a source pass, as `step.train_step`.
SourceStep = Callable[[nn.Module, optax.GradientTransformation, Any], loops.Step]

# (source model, settings, number of classes) -> the step of a delta pass.
DeltaStep = Callable[[nn.Module, Any, int], loops.Step]


@dataclasses.dataclass(frozen=True)
class Alternating(Stepwise):
  """A method that alternates source training on poisoned images with sign steps on delta.

  It ends after `settings.epochs`, or after the first epoch in which the source model errs on less
  than `settings.stop_error` percent of the poisoned images. Fields that are functions, except for
  `objective`, take the settings of the method.

  Attributes:
    settings: Class of the settings.
    objective: Loss that delta minimises; None if `delta_step` is given.
    source_adversary: Makes the adversary that moves the poisoned images of the source model.
    delta_adversary: Makes the adversary that moves the poisoned images of `objective`.
    auxiliary: Makes a network that learns while delta moves and adds a term to `objective`.
    fresh: Whether delta starts again in every pass, from new noise if `init` is random.
    outputs: Number of outputs of the source model; 0: one for each class.
    source_step: Replaces the training step on cross-entropy.
    delta_step: Replaces the sign step on `objective`.
  """

  settings: type[AlternatingSettings]
  objective: sign_step.Objective | None = None
  source_adversary: Callable[[Any], Adversary] | None = None
  delta_adversary: Callable[[Any], Adversary] | None = None
  auxiliary: Callable[[Any], sign_step.Auxiliary] | None = None
  fresh: bool = False
  outputs: int = 0
  source_step: SourceStep | None = None
  delta_step: DeltaStep | None = None

  def procedure(self, settings: Any, sizes: Sizes, seed: int) -> Procedure:
    """Returns the two kinds of steps in alternation; see `stepwise.Stepwise`."""
    layout = deltas.lay_out(sizes.train, settings, seed)
    whole = layout.steps(settings.source.batch_size, partial=False)
    train_steps = min(settings.source_steps or whole, whole)
    delta_steps = layout.steps(settings.batch_size, partial=True) * settings.steps
    outputs = self.outputs or sizes.classes
    module, optimiser = source.network(settings, outputs, sizes.image, train_steps)
    auxiliary = self.auxiliary(settings) if self.auxiliary else None
    train = Stage(
      "source",
      settings.source.batch_size,
      train_steps,
      train_steps / whole,
      self._source_step(module, optimiser, settings),
      ("source", "sums"),
      lambda parts, data, perturbed, size: data.replace(delta=(parts["delta"], perturbed)),
    )
    sign_steps = self.sign_steps(module, settings, sizes.classes, auxiliary)
    freeze = source.freezer(module, sizes.image)
    move = delta_stage(settings, delta_steps, settings.steps, sign_steps, freeze)
    learned = ("source_loss", "source_accuracy")
    moved = ("objective", "poisoned_accuracy") if settings.stop_error else ("objective",)

    def turns(epoch: int) -> tuple[Turn, Turn]:
      sizes = settings.step_size_start, settings.step_size_end
      return (
        Turn(
          train,
          epoch,
          ("source", epoch),
          (Reading("sums", f"the source model, epoch {epoch}", learned),),
          reports=False,
        ),
        Turn(
          move,
          epoch,
          ("delta", epoch),
          (Reading("sums", f"delta, epoch {epoch}", moved),),
          step_size=budget.step_size(epoch, settings.epochs, *sizes),
          start=(seed, epoch) if self.fresh else None,
          observed=True,
          save=due(settings, epoch, settings.epochs),
        ),
      )

    def finished(history):
      return bool(
        settings.stop_error and np.any(100 - history["poisoned_accuracy"] < settings.stop_error)
      )

    return Procedure(
      layout,
      (train, move),
      tuple(turn for epoch in range(1, settings.epochs + 1) for turn in turns(epoch)),
      learned + moved,
      lambda key, delta: source.start(key, module, optimiser, sizes.image, auxiliary),
      finished=finished,
    )

  def _source_step(self, module: nn.Module, optimiser: Any, settings: Any) -> loops.Step:
    if self.source_step:
      return self.source_step(module, optimiser, settings)
    adversary = self.source_adversary(settings) if self.source_adversary else None
    inputs = source.inputs(settings, source.transformation(settings))
    acting = Hooks(adversary=adversary)
    return step.train_step(module, optimiser, inputs, source.spec(settings), acting)

  def sign_steps(
    self, module: nn.Module, settings: Any, classes: int, auxiliary: sign_step.Auxiliary | None
  ) -> loops.Step:
    """Returns the step of a delta pass."""
    if self.delta_step:
      return self.delta_step(module, settings, classes)
    adversary = self.delta_adversary(settings) if self.delta_adversary else None
    transformation = source.transformation(settings)
    assert self.objective is not None, "a method without delta_step needs an objective"
    return sign_step.delta_step(
      module, settings, self.objective, adversary, auxiliary, transformation
    )
