"""The loop that bi-level methods share: fit the source model, move delta, repeat.

A method states its objective; this file holds the order of things, the budget, the augmentation,
checkpoints and the sharding.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import fit, models, objectives, perturb, runtime
from miue_jax.checkpoint import Checkpoints
from miue_jax.config import Config, Method
from miue_jax.data import lanes
from miue_jax.data.augment import augment
from miue_jax.data.dataset import Dataset
from miue_jax.data.pool import Draw, stratified
from miue_jax.errors import UserError
from miue_jax.progress import Progress, Reporter
from miue_jax.runtime import AXIS

# (features, logits, labels, weights) of the local rows -> one loss per row; weight 0 is padding.
Objective = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]

_BLOCK = 256  # images that the host widens to float32 at a time


@dataclasses.dataclass(frozen=True)
class Generated:
  """A finished perturbation, before it becomes an artefact.

  Attributes:
    delta: realised, int8 `[N, H, W, C]` in 255ths, in example order; None but on the lead process.
    seconds: spent, over all sittings.
    perturbed: ids of the perturbed images, None when all are.
    history: per epoch: source loss (nats), source accuracy on poisoned images (percent) and mean
      objective over the delta steps.
  """

  delta: np.ndarray | None
  seconds: float
  perturbed: np.ndarray | None
  history: dict[str, list[float]]


@flax.struct.dataclass
class _Loop:
  """What a checkpoint holds."""

  source: fit.State
  delta: jax.Array
  sums: fit.Sums
  history: jax.Array
  seconds: jax.Array


@flax.struct.dataclass
class DeltaPass:
  """Constants of a delta pass: the source model is frozen, sizes change by epoch."""

  source: fit.State
  data: fit.Pass
  perturbed: jax.Array
  step_size: jax.Array
  epsilon: jax.Array


def generate(
  dataset: Dataset,
  config: Config,
  objective: Objective,
  checkpoints: Checkpoints,
  progress: Reporter,
) -> Generated:
  """Alternates source training on poisoned images with sign steps against `objective`.

  Args:
    dataset: only its training split is used.
    config: `method`, `model`, `source` and `seed` matter here.
    objective: what delta minimises.
    checkpoints: where states go; an interrupted run continues from there.
    progress: makes the reporter of a stage.

  Raises:
    runtime.Interrupted: a signal came; the state is saved.
    UserError: a loss is not finite, or fewer images than one batch.
  """
  method, train = config.method, dataset.train
  layout = lanes.lay_out(len(train), (config.source.batch_size, method.batch_size), config.seed)
  train_steps = layout.steps(config.source.batch_size, partial=False)
  sign_steps = layout.steps(method.batch_size, partial=True) * method.steps
  per_epoch = train_steps + sign_steps
  if train_steps == 0:
    raise UserError(
      f"{len(train)} training images do not fill one source batch of {config.source.batch_size}: "
      "set source.batch_size and method.batch_size to at most that many."
    )

  module = models.build(config.model, dataset.num_classes, train.images.shape[1:])
  optimiser = fit.sgd(config.source, method.epochs, train_steps)
  table = layout.place(train)
  chosen = chosen_images(train.labels, method, config.seed)
  perturbed = runtime.shard((layout.ids >= 0) & chosen[np.maximum(layout.ids, 0)])
  delta_spec = jax.P() if method.class_wise else jax.P(AXIS)
  source_order = fit.shuffler(config.source.batch_size)
  delta_order = fit.shuffler(method.batch_size)
  train_run = runtime.repeated(
    fit.train_step(module, optimiser, source_inputs(config), (delta_spec, jax.P(AXIS)))
  )
  delta_run = runtime.repeated(delta_step(module, method, objective))

  loop = _Loop(
    fit.init(module, optimiser, runtime.stream(config.seed, "weights"), train.images.shape[1:]),
    _first_delta(dataset, method, layout, config.seed),
    fit.Sums.zero(),
    runtime.replicate(np.zeros((method.epochs, 3), np.float32)),
    runtime.replicate(np.float32(0)),
  )
  position, loop = checkpoints.restore(loop) or (0, loop)
  report = progress("generate", method.epochs * per_epoch, method.epochs, position)
  clock = fit.Clock(loop.seconds)

  def leave(reached: int):
    checkpoints.save(reached, loop.replace(seconds=clock.read()))
    raise runtime.Interrupted(runtime.received())

  with runtime.stop_on_signal():
    for epoch in range(position // per_epoch + 1, method.epochs + 1):
      before = (epoch - 1) * per_epoch
      done = position - before

      if done < train_steps:
        key = runtime.stream(config.seed, "source", epoch)
        data = fit.Pass(table, (loop.delta, perturbed), source_order(key, table.ids), key)
        (source, sums), done = train_run(
          (loop.source, loop.sums), data, done, train_steps, tick=_ticker(report, before)
        )
        loop = loop.replace(source=source, sums=sums)
        if done < train_steps:
          leave(before + done)
        loop = _record(loop, epoch, slice(0, 2), sums.read(f"the source model, epoch {epoch}"))

      key = runtime.stream(config.seed, "delta", epoch)
      sizes = (
        perturb.step_size(epoch, method.epochs, method.step_size_start, method.step_size_end),
        perturb.radius(epoch, method.epsilon, method.epsilon_start, method.epsilon_epochs),
      )
      constants = DeltaPass(
        loop.source,
        fit.Pass(table, None, delta_order(key, table.ids), key),
        perturbed,
        *runtime.replicate(tuple(map(np.float32, sizes))),
      )
      (delta, sums), reached = delta_run(
        (loop.delta, loop.sums),
        constants,
        done - train_steps,
        sign_steps,
        tick=_ticker(report, before + train_steps),
      )
      loop = loop.replace(delta=delta, sums=sums)
      if reached < sign_steps:
        leave(before + train_steps + reached)
      loop = _record(loop, epoch, slice(2, 3), sums.read(f"delta, epoch {epoch}")[:1])

      position = epoch * per_epoch
      source_loss, source_accuracy, objective_mean = runtime.fetch(loop.history)[epoch - 1]
      report.report(
        position,
        epoch,
        {
          "source_loss": source_loss,
          "source_accuracy": source_accuracy,
          "objective": objective_mean,
        },
      )
      loop = loop.replace(seconds=clock.read())
      if epoch % method.checkpoint_every == 0 or epoch == method.epochs:
        checkpoints.save(position, loop)
  report.close()

  realised = runtime.fetch_rows(_realised(table, loop.delta, perturbed, method))
  history = runtime.fetch(loop.history).astype(np.float64)
  return Generated(
    None if realised is None else layout.scatter(realised),
    float(loop.seconds),
    None if chosen.all() else np.flatnonzero(chosen),
    {
      name: [round(float(value), 6) for value in column]
      for name, column in zip(
        ("source_loss", "source_accuracy", "objective"), history.T, strict=True
      )
    },
  )


def chosen_images(labels: np.ndarray, method: Method, seed: int) -> np.ndarray:
  """Which images are perturbed, bool `[N]`: `fraction` of each class, or of `only_class`.

  Stratified, drawn by `seed`; a smaller fraction is contained in a larger one.

  Raises:
    UserError: there are none.
  """
  chosen = np.zeros(len(labels), bool)
  chosen[stratified(labels, round(method.fraction * len(labels)), seed, Draw.PERTURBED)] = True
  chosen &= (labels == method.only_class) | (method.only_class == -1)
  if not chosen.any():
    raise UserError(
      f"method.fraction={method.fraction:g} with method.only_class={method.only_class} leaves no "
      "image to perturb: raise the fraction or choose another class."
    )
  return chosen


def _first_delta(dataset: Dataset, method: Method, layout: lanes.Layout, seed: int) -> jax.Array:
  """Where delta starts: packed `[classes or rows, H, W, C]`, replicated or sharded."""
  image_shape = dataset.train.images.shape[1:]
  parts = perturb.resolution(method.epsilon_start)

  def start(ids: np.ndarray) -> np.ndarray:
    if method.init == "zeros":
      return np.zeros((len(ids), *image_shape), np.int16)
    noise = np.float32(method.epsilon) * (2 * _uniform(ids, image_shape, seed) - 1)
    return perturb.pack(noise, parts)

  if method.class_wise:
    return runtime.replicate(start(np.arange(dataset.num_classes)))
  ids = np.maximum(layout.ids, 0)
  return runtime.shard_rows(lambda part: start(ids[part]), (len(ids), *image_shape))


def _uniform(ids: np.ndarray, shape: tuple[int, ...], seed: int) -> np.ndarray:
  """Uniform float32 noise in [0, 1) of examples `ids`, `[len(ids), *shape]`.

  One stream for all examples, in blocks: no process holds the noise of the others' examples.
  """
  generator = np.random.default_rng(seed)
  noise = np.empty((len(ids), *shape), np.float32)
  for first in range(0, ids.max() + 1, _BLOCK):
    block = generator.random((_BLOCK, *shape), np.float32)
    inside = (first <= ids) & (ids < first + _BLOCK)
    noise[inside] = block[ids[inside] - first]
  return noise


def _realised(
  table: lanes.Table, delta: jax.Array, perturbed: jax.Array, method: Method
) -> jax.Array:
  """What remains of delta in stored images, int8 in the order of `table`; each process its rows."""
  patterns = runtime.fetch(delta) if method.class_wise else None
  parts = perturb.resolution(method.epsilon_start)

  def rows(part: slice) -> np.ndarray:
    images, labels, chosen = (
      runtime.local_rows(x, part) for x in (table.images, table.labels, perturbed)
    )
    deltas = None if method.class_wise else runtime.local_rows(delta, part)
    result = np.empty(images.shape, np.int8)
    for start in range(0, len(images), _BLOCK):
      block = slice(start, start + _BLOCK)
      stored = patterns[labels[block]] if method.class_wise else deltas[block]
      exact = perturb.unpack(stored, parts)
      result[block] = perturb.realise(images[block], exact, method.epsilon, method.rounding)
    result[~chosen] = 0
    return result

  return runtime.shard_rows(rows, table.images.shape)


def source_inputs(config: Config) -> fit.Inputs:
  """Images that the source model learns from: what a victim would see."""
  method, kind = config.method, config.source.augment
  parts = perturb.resolution(method.epsilon_start)

  def inputs(batch, perturbation, rows, keys):
    images = batch.images.astype(jnp.float32) / 255
    stored, perturbed = perturbation
    delta = perturb.unpack(stored[batch.labels if method.class_wise else rows], parts)
    delta = jnp.where(perturbed[rows, None, None, None], delta, 0.0)
    if method.augment_poisoned:
      return augment(kind, keys, _added(images, delta, method))
    return _added(augment(kind, keys, images), delta, method)

  return inputs


def delta_step(module: nn.Module, method: Method, objective: Objective) -> runtime.Step:
  """One sign step on one batch, `((delta, Sums), DeltaPass, index) -> (delta, Sums)`.

  Index counts sign steps: batch `index // steps`, step `index % steps`.
  """
  on_device, parts = runtime.loops_on_device(), perturb.resolution(method.epsilon_start)

  def local(carry, constants, index):
    table, sums = carry
    rows, batch = constants.data.batch(index // method.steps)
    images = batch.images.astype(jnp.float32) / 255
    valid = constants.perturbed[rows]
    weights = _weights(batch.labels, valid, method.balanced)
    total = jax.lax.psum(jnp.sum(weights), AXIS)
    if not method.augment_poisoned:
      # As in the authors' recipe an image is transformed once per visit and delta added after it.
      keys = runtime.example_keys(constants.data.key, batch.ids)
      images = augment(method.augment, keys, images)

    def view(delta, draw):
      delta = delta[batch.labels] if method.class_wise else delta
      poisoned = _added(images, delta, method)
      if not method.augment_poisoned:
        return poisoned
      key = jax.random.fold_in(constants.data.key, index * method.draws + draw)
      return augment(method.augment, runtime.example_keys(key, batch.ids), poisoned)

    def source(images):
      return module.apply(constants.source.variables, images, train=False)

    def loss_of(delta):
      losses = []
      for draw in range(method.draws if method.augment_poisoned else 1):
        features, logits = _in_parts(source, view(delta, draw), method, on_device)
        rowwise = objective(features, logits, batch.labels, weights)
        losses.append(jax.lax.psum(jnp.sum(weights * rowwise), AXIS) / jnp.maximum(total, 1e-12))
      return sum(losses) / len(losses)

    stored = table if method.class_wise else table[rows]
    delta = perturb.unpack(stored, parts)
    loss, gradient = jax.value_and_grad(loss_of)(delta)
    moved = perturb.descend(delta, gradient, constants.step_size)
    if method.class_wise:
      table = perturb.pack(jnp.clip(moved, -constants.epsilon, constants.epsilon), parts)
    else:
      moved = perturb.pack(perturb.project(images, moved, constants.epsilon), parts)
      table = table.at[rows].set(jnp.where(valid[:, None, None, None], moved, stored))
    return table, sums.add(index, loss, 0.0, 0.0)

  delta_spec = jax.P() if method.class_wise else jax.P(AXIS)
  constants_spec = DeltaPass(jax.P(), fit.pass_spec(delta_spec), jax.P(AXIS), jax.P(), jax.P())
  return jax.shard_map(
    local,
    in_specs=((delta_spec, jax.P()), constants_spec, jax.P()),
    out_specs=(delta_spec, jax.P()),
  )


def _in_parts(
  apply: Callable[[jax.Array], Any], images: jax.Array, method: Method, on_device: bool
) -> tuple[jax.Array, jax.Array]:
  """Returns `apply(images)`, computed for `method.microbatch` images (of all devices) at a time.

  The backward pass computes each part again, so that only one part's activations are held; the loss
  is still that of the whole batch (as in Gao et al., "Scaling Deep Contrastive Learning Batch Size
  under Memory Limited Setup", 2021).
  """
  if not method.microbatch:
    return apply(images)
  parts = images.reshape(method.batch_size // method.microbatch, -1, *images.shape[1:])
  if not on_device:
    outputs = [jax.checkpoint(apply)(part) for part in parts]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *outputs)
  outputs = jax.lax.map(jax.checkpoint(apply), parts)
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)


def _added(images: jax.Array, delta: jax.Array, method: Method) -> jax.Array:
  """Image plus delta; a class-wise delta fits no single image's range, so the sum is clipped."""
  return jnp.clip(images + delta, 0.0, 1.0) if method.class_wise else images + delta


def _weights(labels: jax.Array, valid: jax.Array, balanced: bool) -> jax.Array:
  """Weight of every local row in the objective: 1, or 1 over the size of its class in the batch."""
  if not balanced:
    return valid.astype(jnp.float32)
  everywhere = objectives.class_balance(*jax.lax.all_gather((labels, valid), AXIS, tiled=True))
  start = jax.lax.axis_index(AXIS) * len(labels)
  return jax.lax.dynamic_slice_in_dim(everywhere, start, len(labels))


def _record(loop: _Loop, epoch: int, columns: slice, values) -> _Loop:
  """Writes an epoch's figures and starts new sums."""
  history = np.array(runtime.fetch(loop.history))
  history[epoch - 1, columns] = values
  return loop.replace(history=runtime.replicate(history), sums=fit.Sums.zero())


def _ticker(report: Progress, before: int) -> Callable[[int], None]:
  return lambda index: report.tick(before + index)
