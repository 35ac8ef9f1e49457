"""Provides the loop of bi-level methods: train the source model, move delta, repeat.

A method declares its two sides as an `Alternating`; this file holds the order of steps.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from miue_jax import budget
from miue_jax.data.dataset import Dataset
from miue_jax.machine import loops, prng, sharding
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.progress import Reporter
from miue_jax.methods import delta as deltas
from miue_jax.methods import sign_step, source
from miue_jax.methods.delta import Delta, DeltaPass
from miue_jax.methods.method import Generated, Observer, Phase, Sizes, generated
from miue_jax.methods.settings import AlternatingSettings
from miue_jax.train import lanes, loop, step
from miue_jax.transforms import Adversary, Hooks, Transformation, identity

# (source model, its optimiser, settings) -> the step of a source pass, as `step.train_step`.
SourceStep = Callable[[nn.Module, optax.GradientTransformation, Any], loops.Step]

# (source model, settings, number of classes) -> the step of a delta pass.
DeltaStep = Callable[[nn.Module, Any, int], loops.Step]


@flax.struct.dataclass
class State:
  """The state of a generation; a checkpoint holds one.

  Attributes:
    source: The source model.
    delta: The perturbation.
    sums: Running sums of the current pass.
    history: One row for each epoch, NaN where nothing was recorded.
    seconds: Time spent, over all sittings.
    auxiliary: State of the auxiliary network; None without one.
  """

  source: step.State
  delta: Delta
  sums: step.Sums
  history: jax.Array
  seconds: jax.Array
  auxiliary: Any = None


@dataclasses.dataclass(frozen=True)
class Alternating:
  """A method that alternates source training on poisoned images with sign steps on delta.

  Fields that make something take the settings of the method.

  Attributes:
    settings: Class of its settings.
    objective: Loss that delta minimises; None where `delta_step` is given.
    source_adversary: Makes what moves the poisoned images before the source model learns from them.
    delta_adversary: Makes what moves the poisoned images before `objective` judges them.
    auxiliary: Makes a network that learns while delta moves and adds a term to `objective`.
    transformation: Makes the input transformation of poisoned images, for both sides.
    fresh: Whether delta starts anew in every pass, from another draw where `init` is random.
    outputs: Number of outputs of the source model; 0: one for each class.
    source_step: Takes the place of the training step on cross-entropy.
    delta_step: Takes the place of the sign step on `objective`.
  """

  settings: type[AlternatingSettings]
  objective: sign_step.Objective | None = None
  source_adversary: Callable[[Any], Adversary] | None = None
  delta_adversary: Callable[[Any], Adversary] | None = None
  auxiliary: Callable[[Any], sign_step.Auxiliary] | None = None
  transformation: Callable[[Any], Transformation] | None = None
  fresh: bool = False
  outputs: int = 0
  source_step: SourceStep | None = None
  delta_step: DeltaStep | None = None

  def phases(self, settings: Any, sizes: Sizes, seed: int) -> tuple[Phase, ...]:
    """Returns the two kinds of steps; see `method.Method`."""
    layout = deltas.lay_out(sizes.train, settings, seed)
    source_steps, delta_steps = _steps(settings, layout)
    module, optimiser = network = source.network(
      settings, self.outputs or sizes.classes, sizes.image, source_steps
    )

    def delta(rows: int) -> tuple[Delta, jax.Array]:
      return Delta.zeros(settings, rows, sizes.classes, sizes.image), jnp.ones(rows, bool)

    def arguments(images, labels):
      moving, perturbed = delta(len(images))
      state = step.fresh_state(module, optimiser, jax.random.key(0), sizes.image)
      data = step.example_pass(layout, images, labels, settings.batch_size, None)
      constants = DeltaPass(state, data, perturbed, jnp.float32(settings.step_size_start))
      auxiliary = self._auxiliary_state(settings, module, jax.random.key(0), sizes.image)
      return (moving, step.Sums.empty(), auxiliary), constants

    train_step = self._source_step(module, optimiser, settings)
    trained = source.phase(
      settings,
      sizes,
      layout,
      network,
      train_step,
      source_steps,
      delta,
      source.spec(settings),
    )
    moved = Phase(
      "delta",
      settings.batch_size,
      delta_steps,
      settings.epochs,
      settings.steps,
      len(layout.ids),
      self._delta_step(module, settings, sizes.classes),
      arguments,
      ((Delta.spec(settings), jax.P(), jax.P()), DeltaPass.spec(settings)),
    )
    return trained, moved

  def generate(
    self,
    dataset: Dataset,
    settings: Any,
    seed: int,
    checkpoints: Checkpoints,
    progress: Reporter,
    observer: Observer | None = None,
  ) -> Generated:
    """Alternates the two sides; see `method.Method`.

    Ends after `settings.epochs`, or after the first epoch in which the source model errs on less
    than `settings.stop_error` percent of the poisoned images.
    """
    train, classes = dataset.train, dataset.num_classes
    layout = deltas.lay_out(len(train), settings, seed)
    source_steps, delta_steps = _steps(settings, layout)
    image = train.images.shape[1:]
    module, optimiser = source.network(settings, self.outputs or classes, image, source_steps)
    table = layout.place(train)
    chosen = deltas.chosen_images(train.labels, settings, seed)
    perturbed = deltas.perturbed_rows(chosen, layout)
    source_order = step.shuffler(settings.source.batch_size)
    delta_order = step.shuffler(settings.batch_size)
    train_run = loops.repeated(self._source_step(module, optimiser, settings))
    delta_run = loops.repeated(self._delta_step(module, settings, classes))
    names = _names(settings)
    observed = observer.names if observer else ()

    def source_segment(epoch: int) -> loop.Segment:
      def run(state, first, stop, tick):
        key = prng.stream(seed, "source", epoch)
        data = step.Pass(table, (state.delta, perturbed), source_order(key, table.ids), key)
        carry, done = train_run((state.source, state.sums), data, first, stop, tick=tick)
        return state.replace(source=carry[0], sums=carry[1]), done

      def finish(state):
        values = state.sums.read(f"the source model, epoch {epoch}")
        return _recorded(state, epoch, slice(0, 2), values), None

      return loop.Segment(epoch, source_steps, run, finish)

    def delta_segment(epoch: int) -> loop.Segment:
      def run(state, first, stop, tick):
        if self.fresh and first == 0:
          start = deltas.first_delta(dataset, settings, layout, (seed, epoch))
          state = state.replace(delta=start)
        key = prng.stream(seed, "delta", epoch)
        data = step.Pass(table, None, delta_order(key, table.ids), key)
        size = sharding.replicate(np.float32(_step_size(settings, epoch)))
        constants = DeltaPass(state.source, data, perturbed, size)
        carry = (state.delta, state.sums, state.auxiliary)
        (delta, sums, auxiliary), done = delta_run(carry, constants, first, stop, tick=tick)
        return state.replace(delta=delta, sums=sums, auxiliary=auxiliary), done

      def finish(state):
        values = state.sums.read(f"delta, epoch {epoch}")
        state = _recorded(state, epoch, slice(2, len(names)), values[: len(names) - 2])
        if observer and epoch in observer.epochs:
          values = observer.look(state.source, state.delta, layout)
          state = _recorded(state, epoch, slice(len(names), None), values)
        row = sharding.fetch(state.history)[epoch - 1]
        scalars = dict(zip((*names, *observed), row, strict=True))
        return state, {name: value for name, value in scalars.items() if not np.isnan(value)}

      save = epoch % settings.checkpoint_every == 0 or epoch == settings.epochs
      return loop.Segment(epoch, delta_steps, run, finish, save)

    state = State(
      step.init(module, optimiser, prng.stream(seed, "weights"), image),
      deltas.first_delta(dataset, settings, layout, seed),
      step.Sums.zero(),
      loop.no_history(settings.epochs, len(names) + len(observed)),
      sharding.replicate(np.float32(0)),
      # The name of the stream is part of the results, so it stays.
      sharding.replicate(
        self._auxiliary_state(settings, module, prng.stream(seed, "companion"), image)
      ),
    )
    epochs = range(1, settings.epochs + 1)
    state = loop.drive(
      state,
      [side(epoch) for epoch in epochs for side in (source_segment, delta_segment)],
      name="generate",
      checkpoints=checkpoints,
      progress=progress,
      finished=lambda state: _easy(state, settings),
    )
    history = dict(zip((*names, *observed), sharding.fetch(state.history).T, strict=True))
    quantised = deltas.quantised(layout, table, state.delta, perturbed, settings)
    result = generated(quantised, state.seconds, chosen, history)
    if observer:
      result.history["observed_epoch"] = list(observer.epochs[: len(result.history[observed[0]])])
    return result

  def _source_step(self, module: nn.Module, optimiser: Any, settings: Any) -> loops.Step:
    if self.source_step:
      return self.source_step(module, optimiser, settings)
    adversary = self.source_adversary(settings) if self.source_adversary else None
    inputs = source.inputs(settings, self._transformation(settings))
    acting = Hooks(adversary=adversary)
    return step.train_step(module, optimiser, inputs, source.spec(settings), acting)

  def _delta_step(self, module: nn.Module, settings: Any, classes: int) -> loops.Step:
    if self.delta_step:
      return self.delta_step(module, settings, classes)
    return sign_step.delta_step(
      module,
      settings,
      self.objective,
      self.delta_adversary(settings) if self.delta_adversary else None,
      self.auxiliary(settings) if self.auxiliary else None,
      self._transformation(settings),
    )

  def _transformation(self, settings: Any) -> Transformation:
    return self.transformation(settings) if self.transformation else identity

  def _auxiliary_state(self, settings: Any, module: nn.Module, key: Any, image: Any) -> Any:
    return self.auxiliary(settings).state(module, key, image) if self.auxiliary else None


def _steps(settings: Any, layout: lanes.Layout) -> tuple[int, int]:
  """Returns the source and delta steps of an epoch."""
  whole = layout.steps(settings.source.batch_size, partial=False)
  batches = layout.steps(settings.batch_size, partial=True)
  return min(settings.source_steps or whole, whole), batches * settings.steps


def _step_size(settings: Any, epoch: int) -> float:
  sizes = settings.step_size_start, settings.step_size_end
  return budget.step_size(epoch, settings.epochs, *sizes)


def _names(settings: Any) -> tuple[str, ...]:
  """Returns what is recorded of an epoch: losses in nats, accuracies on poisoned images in %."""
  names = ("source_loss", "source_accuracy", "objective")
  return (*names, "poisoned_accuracy") if settings.stop_error else names


def _recorded(state: State, epoch: int, columns: slice, values: Any) -> State:
  """Returns the state with values in its history, and new sums."""
  history = loop.recorded(state.history, epoch - 1, values, columns)
  return state.replace(history=history, sums=step.Sums.zero())


def _easy(state: State, settings: Any) -> bool:
  """Returns whether an epoch left the source model fewer errors than `stop_error` percent."""
  if not settings.stop_error:
    return False
  accuracy = sharding.fetch(state.history)[:, len(_names(settings)) - 1]
  return bool(np.any(100 - accuracy < settings.stop_error))
