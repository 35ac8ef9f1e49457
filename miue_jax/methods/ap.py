"""AP: adversarial poisons (Fowl et al., "Adversarial Examples Make Strong Poisons", NeurIPS 2021).

  theta <- argmin  CE(f(x), y)                                 source model, on clean images
  repeat for every restart, from noise:
    delta <- argmin  CE(f(T(x + delta)), y + 1 mod C),  |delta| <= eps             targeted, or
    delta <- argmax  CE(f(T(x + delta)), y),            |delta| <= eps             error-maximising
  every image keeps the delta of its best restart

T is a random augmentation, drawn anew for every sign step and differentiated through. A model that
trains on the poison learns the features of another class in the place of each class's own.
`method.epochs` counts passes of source training; noise needs `method.init="random"`.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import budget, models, objectives
from miue_jax.data.dataset import Dataset
from miue_jax.machine import loops, prng, sharding, signals
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.meshes import AXIS
from miue_jax.machine.progress import Reporter
from miue_jax.methods import delta as deltas
from miue_jax.methods.generated import Generated
from miue_jax.settings.config import Config, Method
from miue_jax.settings.errors import UserError
from miue_jax.train import fit


def generate(
  dataset: Dataset, config: Config, checkpoints: Checkpoints, progress: Reporter
) -> Generated:
  """Makes a targeted AP poison; arguments and errors as `alternating.generate`."""
  return attack(dataset, config, targeted(config.method), checkpoints, progress)


def generate_maximising(
  dataset: Dataset, config: Config, checkpoints: Checkpoints, progress: Reporter
) -> Generated:
  """Makes an error-maximising AP poison; arguments and errors as `alternating.generate`."""
  return attack(dataset, config, maximising(config.method), checkpoints, progress)


def targeted(method: Method) -> deltas.Objective:
  """Cross-entropy of the class after the true one; the last is followed by the first."""
  del method

  def loss(features, logits, labels, weights):
    del features, weights
    return objectives.cross_entropy(logits, (labels + 1) % logits.shape[1])

  return loss


def maximising(method: Method) -> deltas.Objective:
  """Minus the cross-entropy of the true class."""
  del method

  def loss(features, logits, labels, weights):
    del features, weights
    return -objectives.cross_entropy(logits, labels)

  return loss


@flax.struct.dataclass
class _Loop:
  """What a checkpoint holds.

  `best` is the delta kept so far, `lowest` each row's loss with it, `beside` the auxiliary's state.
  """

  source: fit.State
  delta: jax.Array
  best: jax.Array
  lowest: jax.Array
  sums: fit.Sums
  learned: jax.Array
  objective: jax.Array
  seconds: jax.Array
  beside: Any = None


def attack(
  dataset: Dataset,
  config: Config,
  objective: deltas.Objective,
  checkpoints: Checkpoints,
  progress: Reporter,
  auxiliary: deltas.Auxiliary | None = None,
) -> Generated:
  """Trains the source model on clean images, then moves delta against it.

  Args:
    dataset: as for `alternating.generate`, and so are `config`, `checkpoints` and `progress`.
    config: see there.
    objective: what delta minimises, and by which an image's restarts are compared.
    checkpoints: see there.
    progress: see there.
    auxiliary: learns beside delta and adds a term to `objective`.

  Raises:
    signals.Interrupted: a signal came; the state is saved.
    UserError: as `alternating.generate`, or one perturbation for each class.
  """
  method, train = config.method, dataset.train
  if method.class_wise:
    raise UserError(
      f"Method {method.name} makes one perturbation for each image: set method.class_wise=False."
    )
  layout = deltas.lay_out(train, config)
  train_steps = layout.steps(config.source.batch_size, partial=False)
  batches = layout.steps(method.batch_size, partial=True)
  sign_steps = batches * method.steps
  training, restart_steps = method.epochs * train_steps, sign_steps + batches

  module = models.build(config.model, dataset.num_classes, train.images.shape[1:])
  optimiser = fit.sgd(config.source, method.epochs, train_steps)
  table = layout.place(train)
  chosen = deltas.chosen_images(train.labels, method, config.seed)
  perturbed = deltas.perturbed_rows(chosen, layout)
  source_order = fit.shuffler(config.source.batch_size)
  delta_order = fit.shuffler(method.batch_size)
  train_run = loops.repeated(
    fit.train_step(module, optimiser, fit.plain_inputs(config.source.augment), jax.P(AXIS))
  )
  delta_run = loops.repeated(deltas.delta_step(module, method, objective, auxiliary=auxiliary))
  keep_run = loops.repeated(_keep_step(module, method, objective))
  sizes = tuple(map(np.float32, (method.step_size_start, method.epsilon)))

  delta = deltas.first_delta(dataset, method, layout, config.seed)
  key, image = prng.stream(config.seed, "companion"), train.images.shape[1:]
  loop = _Loop(
    fit.init(module, optimiser, prng.stream(config.seed, "weights"), image),
    delta,
    jax.tree.map(jnp.copy, delta),
    sharding.shard(np.full(len(layout.ids), np.inf, np.float32)),
    fit.Sums.zero(),
    sharding.replicate(np.zeros((method.epochs, 2), np.float32)),
    sharding.replicate(np.zeros(method.restarts, np.float32)),
    sharding.replicate(np.float32(0)),
    sharding.replicate(deltas.auxiliary_state(auxiliary, module, key, image)),
  )
  position, loop = checkpoints.restore(loop) or (0, loop)
  total, stages = training + method.restarts * restart_steps, method.epochs + method.restarts
  report = progress("generate", total, stages, position)
  clock = fit.Clock(loop.seconds)

  def leave(reached: int):
    checkpoints.save(reached, loop.replace(seconds=clock.read()))
    raise signals.Interrupted(signals.received())

  with signals.stop_on_signal():
    for epoch in range(position // train_steps + 1, method.epochs + 1):
      before = (epoch - 1) * train_steps
      key = prng.stream(config.seed, "source", epoch)
      data = fit.Pass(table, None, source_order(key, table.ids), key)
      (source, sums), done = train_run(
        (loop.source, loop.sums),
        data,
        position - before,
        train_steps,
        tick=lambda index, before=before: report.tick(before + index),
      )
      loop = loop.replace(source=source, sums=sums)
      if done < train_steps:
        leave(before + done)
      position = epoch * train_steps
      loss, accuracy = sums.read(f"the source model, epoch {epoch}")
      report.report(position, epoch, {"source_loss": loss, "source_accuracy": accuracy})
      loop = loop.replace(
        learned=_with(loop.learned, epoch - 1, (loss, accuracy)),
        sums=fit.Sums.zero(),
        seconds=clock.read(),
      )
      if epoch % method.checkpoint_every == 0 or epoch == method.epochs:
        checkpoints.save(position, loop)

    for restart in range((position - training) // restart_steps, method.restarts):
      before = training + restart * restart_steps
      done = position - before
      if done == 0:
        start = deltas.first_delta(dataset, method, layout, (config.seed, restart))
        loop = loop.replace(delta=start)
      key = prng.stream(config.seed, "delta", restart)
      data = fit.Pass(table, None, delta_order(key, table.ids), key)
      constants = deltas.DeltaPass(loop.source, data, perturbed, *sharding.replicate(sizes))
      if done < sign_steps:
        (delta, sums, beside), done = delta_run(
          (loop.delta, loop.sums, loop.beside),
          constants,
          done,
          sign_steps,
          tick=lambda index, before=before: report.tick(before + index),
        )
        loop = loop.replace(delta=delta, sums=sums, beside=beside)
        if done < sign_steps:
          leave(before + done)
      (best, lowest), done = keep_run(
        (loop.best, loop.lowest),
        constants.replace(data=data.replace(delta=loop.delta)),
        done - sign_steps,
        batches,
        tick=lambda index, before=before + sign_steps: report.tick(before + index),
      )
      loop = loop.replace(best=best, lowest=lowest)
      if done < batches:
        leave(before + sign_steps + done)
      position = before + restart_steps
      objective_mean, _ = loop.sums.read(f"delta, restart {restart + 1}")
      report.report(position, method.epochs + restart + 1, {"objective": objective_mean})
      loop = loop.replace(
        objective=_with(loop.objective, restart, objective_mean),
        sums=fit.Sums.zero(),
        seconds=clock.read(),
      )
      checkpoints.save(position, loop)
  report.close()

  released = deltas.released(layout, table, loop.best, perturbed, method)
  learned, objective_means = sharding.fetch((loop.learned, loop.objective))
  columns = (*learned.astype(np.float64).T, objective_means.astype(np.float64))
  names = ("source_loss", "source_accuracy", "objective")
  return Generated(
    released,
    float(loop.seconds),
    None if chosen.all() else np.flatnonzero(chosen),
    {name: np.round(column, 6).tolist() for name, column in zip(names, columns, strict=True)},
  )


def _with(values: jax.Array, index: int, value) -> jax.Array:
  """A replicated array with one entry replaced."""
  changed = np.array(sharding.fetch(values))
  changed[index] = value
  return sharding.replicate(changed)


def _keep_step(module, method: Method, objective: deltas.Objective) -> loops.Step:
  """Keeps the better delta of every image of a batch.

  The step is `((best, lowest), DeltaPass, index) -> (best, lowest)`; `DeltaPass.data.delta` holds
  the candidates. They are judged by the images as they are, without augmentation.
  """
  parts = budget.resolution(method.epsilon_start)

  def local(carry, constants, index):
    best, lowest = carry
    rows, batch = constants.data.batch(index)
    candidate = constants.data.delta[rows]
    images = batch.images.astype(jnp.float32) / 255 + budget.unpack(candidate, parts)
    features, logits = module.apply(constants.source.variables, images, train=False)
    weights = constants.perturbed[rows].astype(jnp.float32)
    losses = objective(features, logits, batch.labels, weights)
    better = losses < lowest[rows]
    kept = jnp.where(better[:, None, None, None], candidate, best[rows])
    return best.at[rows].set(kept), lowest.at[rows].min(losses)

  constants_spec = deltas.DeltaPass(
    jax.P(), fit.pass_spec(jax.P(AXIS)), jax.P(AXIS), jax.P(), jax.P()
  )
  return jax.shard_map(
    local, in_specs=(jax.P(AXIS), constants_spec, jax.P()), out_specs=jax.P(AXIS)
  )
