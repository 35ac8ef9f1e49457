"""Provides the loop of adversarial poisons: train a source model on clean images, then attack it.

Delta starts anew at every restart, and every image keeps the delta of its best restart.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from miue_jax.data.dataset import Dataset
from miue_jax.machine import loops, prng, sharding
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.meshes import AXIS
from miue_jax.machine.progress import Reporter
from miue_jax.methods import delta as deltas
from miue_jax.methods import sign_step, source
from miue_jax.methods.delta import Delta, DeltaPass
from miue_jax.methods.method import Generated, Observer, Phase, Sizes, generated
from miue_jax.methods.settings import Sourced
from miue_jax.settings.schema import Count, Positive, settings
from miue_jax.train import loop, step


@settings
class AttackSettings(Sourced):
  """An attack on a source model that was trained on clean images."""

  step_size: Positive = 0.4 / 255  # in [0, 1] pixel units
  restarts: Count = 1  # starts of delta; each image keeps its best


@flax.struct.dataclass
class State:
  """The state of a generation; a checkpoint holds one.

  Attributes:
    source: The source model.
    delta: The perturbation of the current restart.
    best: The perturbation that each image keeps so far.
    lowest: Loss of each row with it, `[rows]`.
    sums: Running sums of the current pass.
    learned: Loss and accuracy of the source model, `[epochs, 2]`.
    objective: Mean objective, `[restarts]`.
    seconds: Time spent, over all sittings.
    auxiliary: State of the auxiliary network; None without one.
  """

  source: step.State
  delta: Delta
  best: Delta
  lowest: jax.Array
  sums: step.Sums
  learned: jax.Array
  objective: jax.Array
  seconds: jax.Array
  auxiliary: Any = None


@dataclasses.dataclass(frozen=True)
class Attack:
  """A method that attacks a source model trained on clean images.

  Attributes:
    settings: Class of its settings.
    objective: Loss that delta minimises, and by which the restarts of an image are compared.
    auxiliary: Makes, from the settings, a network that learns while delta moves and adds a term to
      `objective`. The term belongs to a batch, so that restarts are compared without it.
  """

  settings: type[AttackSettings]
  objective: sign_step.Objective
  auxiliary: Callable[[Any], sign_step.Auxiliary] | None = None

  def phases(self, settings: Any, sizes: Sizes, seed: int) -> tuple[Phase, ...]:
    """Returns the three kinds of steps; see `method.Method`."""
    layout = deltas.lay_out(sizes.train, settings, seed)
    train_steps = layout.steps(settings.source.batch_size, partial=False)
    batches = layout.steps(settings.batch_size, partial=True)
    network = source.network(settings, sizes.classes, sizes.image, train_steps)
    module, optimiser = network
    auxiliary = self.auxiliary(settings) if self.auxiliary else None

    def constants(images, labels, delta):
      state = step.fresh_state(module, optimiser, jax.random.key(0), sizes.image)
      data = step.example_pass(layout, images, labels, settings.batch_size, delta)
      perturbed = jnp.ones(len(images), bool)
      return DeltaPass(state, data, perturbed, jnp.float32(settings.step_size))

    def zeros(images):
      return Delta.zeros(settings, len(images), sizes.classes, sizes.image)

    def moving(images, labels):
      key = jax.random.key(0)
      state = auxiliary.state(module, key, sizes.image) if auxiliary else None
      return (zeros(images), step.Sums.empty(), state), constants(images, labels, None)

    def keeping(images, labels):
      carry = zeros(images), jnp.zeros(len(images), jnp.float32)
      return carry, constants(images, labels, zeros(images))

    def phase(name, steps, do, arguments, carry_spec):
      return Phase(
        name,
        settings.batch_size,
        batches * steps,
        settings.restarts,
        steps,
        len(layout.ids),
        do,
        arguments,
        (carry_spec, DeltaPass.spec(settings)),
      )

    inputs = step.plain_inputs(settings.source.augment)
    train_step = step.train_step(module, optimiser, inputs, jax.P(AXIS))
    move = sign_step.delta_step(module, settings, self.objective, auxiliary=auxiliary)
    keep = _keep_step(module, settings, self.objective)
    return (
      source.phase(settings, sizes, layout, network, train_step, train_steps),
      phase("delta", settings.steps, move, moving, (jax.P(AXIS), jax.P(), jax.P())),
      phase("keep", 1, keep, keeping, jax.P(AXIS)),
    )

  def generate(
    self,
    dataset: Dataset,
    settings: Any,
    seed: int,
    checkpoints: Checkpoints,
    progress: Reporter,
    observer: Observer | None = None,
  ) -> Generated:
    """Trains the source model, then attacks it; see `method.Method`."""
    del observer
    train, image = dataset.train, dataset.train.images.shape[1:]
    layout = deltas.lay_out(len(train), settings, seed)
    train_steps = layout.steps(settings.source.batch_size, partial=False)
    batches = layout.steps(settings.batch_size, partial=True)
    module, optimiser = source.network(settings, dataset.num_classes, image, train_steps)
    auxiliary = self.auxiliary(settings) if self.auxiliary else None
    table = layout.place(train)
    chosen = deltas.chosen_images(train.labels, settings, seed)
    perturbed = deltas.perturbed_rows(chosen, layout)
    source_order = step.shuffler(settings.source.batch_size)
    delta_order = step.shuffler(settings.batch_size)
    inputs = step.plain_inputs(settings.source.augment)
    train_run = loops.repeated(step.train_step(module, optimiser, inputs, jax.P(AXIS)))
    delta_run = loops.repeated(
      sign_step.delta_step(module, settings, self.objective, auxiliary=auxiliary)
    )
    keep_run = loops.repeated(_keep_step(module, settings, self.objective))
    size = sharding.replicate(np.float32(settings.step_size))

    def source_segment(epoch: int) -> loop.Segment:
      def run(state, first, stop, tick):
        key = prng.stream(seed, "source", epoch)
        data = step.Pass(table, None, source_order(key, table.ids), key)
        carry, done = train_run((state.source, state.sums), data, first, stop, tick=tick)
        return state.replace(source=carry[0], sums=carry[1]), done

      def finish(state):
        loss, accuracy = state.sums.read(f"the source model, epoch {epoch}")
        learned = loop.recorded(state.learned, epoch - 1, (loss, accuracy))
        state = state.replace(learned=learned, sums=step.Sums.zero())
        return state, {"source_loss": loss, "source_accuracy": accuracy}

      save = epoch % settings.checkpoint_every == 0 or epoch == settings.epochs
      return loop.Segment(epoch, train_steps, run, finish, save)

    def constants(state: State, restart: int, delta: Delta | None) -> DeltaPass:
      key = prng.stream(seed, "delta", restart)
      data = step.Pass(table, delta, delta_order(key, table.ids), key)
      return DeltaPass(state.source, data, perturbed, size)

    def delta_segment(restart: int) -> loop.Segment:
      def run(state, first, stop, tick):
        if first == 0:
          start = deltas.first_delta(dataset, settings, layout, (seed, restart))
          state = state.replace(delta=start)
        carry = (state.delta, state.sums, state.auxiliary)
        given = constants(state, restart, None)
        (delta, sums, learning), done = delta_run(carry, given, first, stop, tick=tick)
        return state.replace(delta=delta, sums=sums, auxiliary=learning), done

      return loop.Segment(
        settings.epochs + restart + 1, batches * settings.steps, run, lambda state: (state, None)
      )

    def keep_segment(restart: int) -> loop.Segment:
      def run(state, first, stop, tick):
        given = constants(state, restart, state.delta)
        (best, lowest), done = keep_run((state.best, state.lowest), given, first, stop, tick=tick)
        return state.replace(best=best, lowest=lowest), done

      def finish(state):
        mean, _ = state.sums.read(f"delta, restart {restart + 1}")
        objective = loop.recorded(state.objective, restart, mean)
        return state.replace(objective=objective, sums=step.Sums.zero()), {"objective": mean}

      return loop.Segment(settings.epochs + restart + 1, batches, run, finish, save=True)

    delta = deltas.first_delta(dataset, settings, layout, seed)
    key = prng.stream(seed, "companion")  # the name is part of the results
    state = State(
      step.init(module, optimiser, prng.stream(seed, "weights"), image),
      delta,
      jax.tree.map(jnp.copy, delta),
      sharding.shard(np.full(len(layout.ids), np.inf, np.float32)),
      step.Sums.zero(),
      loop.no_history(settings.epochs, 2, fill=0),
      loop.no_history(settings.restarts, fill=0),
      sharding.replicate(np.float32(0)),
      sharding.replicate(auxiliary.state(module, key, image) if auxiliary else None),
    )
    training = [source_segment(epoch) for epoch in range(1, settings.epochs + 1)]
    attacks = [
      segment(restart)
      for restart in range(settings.restarts)
      for segment in (delta_segment, keep_segment)
    ]
    state = loop.drive(
      state, training + attacks, name="generate", checkpoints=checkpoints, progress=progress
    )
    quantised = deltas.quantised(layout, table, state.best, perturbed, settings)
    learned, objective = sharding.fetch((state.learned, state.objective))
    names = ("source_loss", "source_accuracy", "objective")
    history = dict(zip(names, (*learned.T, objective), strict=True))
    return generated(quantised, state.seconds, chosen, history)


def _keep_step(
  module: nn.Module, settings: AttackSettings, objective: sign_step.Objective
) -> loops.Step:
  """Returns the step that keeps the better delta of every image of a batch.

  The step is `((best, lowest), DeltaPass, index) -> (best, lowest)`; `DeltaPass.data.delta` holds
  the candidates. They are judged on images without augmentation.
  """

  def local(carry, constants, index):
    best, lowest = carry
    rows, batch = constants.data.batch(index)
    candidates = constants.data.delta
    images = batch.images.astype(jnp.float32) / 255 + candidates.rows(rows, batch.labels)
    features, logits = module.apply(constants.source.variables, images, train=False)
    weights = constants.perturbed[rows].astype(jnp.float32)
    losses = objective(features, logits, batch.labels, weights, settings)
    better = (losses < lowest[rows])[:, None, None, None]
    kept = jnp.where(better, candidates.stored[rows], best.stored[rows])
    best = best.replace(stored=best.stored.at[rows].set(kept))
    return best, lowest.at[rows].min(losses)

  return jax.shard_map(
    local, in_specs=(jax.P(AXIS), DeltaPass.spec(settings), jax.P()), out_specs=jax.P(AXIS)
  )
