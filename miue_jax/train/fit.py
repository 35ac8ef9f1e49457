"""One trainer: SGD on labelled images. Source models and victims are both trained by it."""

import functools
import time
import zlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from miue_jax import models
from miue_jax.data.dataset import Split
from miue_jax.data.reader import LazyImages
from miue_jax.machine import loops, prng, sharding, signals
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.meshes import AXIS
from miue_jax.machine.progress import Reporter
from miue_jax.settings.config import Fit, Sgd
from miue_jax.settings.errors import UserError
from miue_jax.train import lanes, pretrained
from miue_jax.transforms import hooks as hooks_lib
from miue_jax.transforms.augment import augment

EVALUATION_BATCH = 512


@flax.struct.dataclass
class State:
  """A model in training: parameters, BatchNorm statistics, optimiser state."""

  params: Any
  batch_stats: Any
  opt_state: Any

  @property
  def variables(self) -> dict[str, Any]:
    """What `module.apply` takes."""
    return {"params": self.params, "batch_stats": self.batch_stats}


@flax.struct.dataclass
class Sums:
  """Running sums of one pass, kept on the device so that no step waits for the host.

  Attributes:
    loss: sum of batch losses.
    steps: batches seen.
    correct: examples classified correctly.
    count: examples seen.
    first_bad: index of the first batch whose loss was not finite, or -1.
  """

  loss: jax.Array
  steps: jax.Array
  correct: jax.Array
  count: jax.Array
  first_bad: jax.Array

  @classmethod
  def zero(cls) -> "Sums":
    """Empty sums, on every device of the mesh."""
    return sharding.replicate(cls(*(np.float32(0) for _ in range(4)), np.int32(-1)))

  def add(self, index, loss, correct, count) -> "Sums":
    """Adds one batch."""
    bad = ~jnp.isfinite(loss) & (self.first_bad < 0)
    return Sums(
      self.loss + loss,
      self.steps + 1,
      self.correct + correct,
      self.count + count,
      jnp.where(bad, index, self.first_bad),
    )

  def read(self, what: str) -> tuple[float, float]:
    """Mean loss and accuracy (percent) on the host.

    Raises:
      UserError: a loss was not finite.
    """
    sums = sharding.fetch(self)
    if sums.first_bad >= 0:
      raise UserError(
        f"The loss of {what} is not finite at step {sums.first_bad}: lower the learning rate or "
        "use dtype float32."
      )
    return float(sums.loss / sums.steps), float(100 * sums.correct / max(sums.count, 1))


@flax.struct.dataclass
class Pass:
  """The constants of one pass over the data: what a step reads and does not change.

  Attributes:
    table: the examples.
    delta: what the inputs of a method add to the images, None when they are used as they are.
    order: rows of every batch, `[lanes, batches]`.
    key: random key of this pass.
  """

  table: lanes.Table
  delta: Any
  order: jax.Array
  key: jax.Array

  def batch(self, index: jax.Array) -> tuple[jax.Array, lanes.Table]:
    """Local rows of batch `index`, and what stands in them."""
    rows = self.order[:, index]
    return rows, jax.tree.map(lambda x: x[rows], self.table)


def pass_spec(delta: Any) -> Pass:
  """How a `Pass` lies on the mesh, given how its delta does."""
  return Pass(jax.P(AXIS), delta, jax.P(AXIS), jax.P())


def shuffler(batch_size: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """Returns `order(key, ids)`, the order of one pass with batches of `batch_size`."""
  local_lanes = batch_size // jax.sharding.get_mesh().size
  return jax.jit(
    jax.shard_map(
      lambda key, ids: lanes.shuffle(key, ids, local_lanes),
      in_specs=(jax.P(), jax.P(AXIS)),
      out_specs=jax.P(AXIS),
    )
  )


def sgd(config: Sgd, epochs: int, steps_per_epoch: int) -> optax.GradientTransformation:
  """SGD with momentum and weight decay as in PyTorch; the rate changes between epochs.

  Epoch e of E (from 1) uses `f + (r - f) (1 + cos(pi (e - 1) / E)) / 2` (schedule `cosine`), or r
  and a tenth of it after 40 % and again after 80 % of the epochs (`steps`).
  """

  def schedule(count):
    epoch = count // steps_per_epoch
    if config.schedule == "steps":
      drops = sum((epoch >= share * epochs).astype(jnp.float32) for share in (0.4, 0.8))
      return config.learning_rate * 0.1**drops
    turn = (1 + jnp.cos(jnp.pi * epoch / epochs)) / 2
    return config.final_learning_rate + turn * (config.learning_rate - config.final_learning_rate)

  return optax.chain(
    optax.add_decayed_weights(config.weight_decay), optax.sgd(schedule, config.momentum)
  )


def init(module: nn.Module, optimiser, key: jax.Array, image_shape: tuple[int, ...]) -> State:
  """A fresh state, on every device of the mesh."""
  variables = models.init(module, key, image_shape)
  params = variables["params"]
  return sharding.replicate(State(params, variables["batch_stats"], optimiser.init(params)))


Inputs = Callable[[lanes.Table, Any, jax.Array, jax.Array], jax.Array]


def plain_inputs(kind: str) -> Inputs:
  """Inputs of a victim: stored images, augmented."""

  def inputs(batch, delta, rows, keys):
    del delta, rows
    return augment(kind, keys, batch.images.astype(jnp.float32) / 255)

  return inputs


def train_step(
  module: nn.Module,
  optimiser,
  inputs: Inputs,
  delta_spec: Any,
  hooks: hooks_lib.Hooks = hooks_lib.NONE,
) -> loops.Step:
  """One SGD step, `((State, Sums), Pass, index) -> (State, Sums)`, sharded over the mesh.

  Args:
    module: returns (features, logits).
    optimiser: an optax transformation.
    inputs: `(batch, delta, rows, keys) -> float images [batch, H, W, C]`.
    delta_spec: how `Pass.delta` lies on the mesh.
    hooks: what a defence does to the batch.
  """

  def local(carry, constants, index):
    state, sums = carry
    rows, batch = constants.batch(index)
    keys = prng.example_keys(constants.key, batch.ids)
    images = inputs(batch, constants.delta, rows, keys)
    targets = hooks_lib.Targets.hard(batch.labels)
    if hooks.augment:
      images, targets = hooks.augment(_hook_keys(constants, batch, "augment"), images, targets)
    if hooks.adversary:

      def frozen_loss(images):
        return targets.loss(module.apply(state.variables, images, train=False)[1])

      images = hooks.adversary(_hook_keys(constants, batch, "adversary"), images, frozen_loss)

    def loss_of(params):
      (_, logits), updated = module.apply(
        {"params": params, "batch_stats": state.batch_stats},
        images,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.fold_in(constants.key, index)},
      )
      # The mean over devices belongs inside: gradients of replicated parameters arrive summed.
      loss = jax.lax.pmean(jnp.mean(targets.loss(logits)), AXIS)
      return loss, (logits, updated.get("batch_stats", {}))

    (loss, (logits, batch_stats)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
      state.params
    )
    updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    correct = jax.lax.psum(jnp.sum(targets.correct(logits)), AXIS)
    count = logits.shape[0] * jax.lax.axis_size(AXIS)
    return State(params, batch_stats, opt_state), sums.add(index, loss, correct, count)

  return jax.shard_map(local, in_specs=(jax.P(), pass_spec(delta_spec), jax.P()), out_specs=jax.P())


def _hook_keys(constants: Pass, batch: lanes.Table, name: str) -> jax.Array:
  """One key per example, apart from those of every other use."""
  key = jax.random.fold_in(constants.key, zlib.crc32(name.encode()))
  return prng.example_keys(key, batch.ids)


class Predictor:
  """Inference in batches over the mesh; compiled once."""

  def __init__(self, module: nn.Module):
    self._apply = inference(module, jax.sharding.get_mesh())

  def __call__(
    self, state: State, images: np.ndarray | LazyImages
  ) -> tuple[np.ndarray, np.ndarray]:
    """Features `[N, d]` and logits `[N, K]` of uint8 images `[N, H, W, C]`, BatchNorm frozen.

    Every process reads the images of its own devices and returns the results of all.
    """
    return in_batches(self._apply, state.variables, images)


def in_batches(
  apply: Callable[[Any, jax.Array], Any], variables: Any, images: np.ndarray | LazyImages
) -> Any:
  """Applies a compiled function to images over the mesh, and gathers what it returns.

  Args:
    apply: variables and uint8 images `[batch, H, W, C]`, sharded -> arrays `[batch, ...]`, sharded.
    variables: replicated.
    images: uint8 `[N, H, W, C]`; those that are read from files are, a batch at a time.

  Returns:
    What `apply` returns, of all images: NumPy arrays `[N, ...]`.
  """
  devices = jax.sharding.get_mesh().size
  batch = -(-min(EVALUATION_BATCH, len(images)) // devices) * devices

  def padded(rows: slice) -> np.ndarray:
    block = np.zeros((rows.stop - rows.start, *images.shape[1:]), np.uint8)
    stop = min(rows.stop, len(images))
    if rows.start < stop:
      block[: stop - rows.start] = images[rows.start : stop]
    return block

  results = []
  for start in range(0, len(images), batch):
    rows = sharding.shard_rows(
      lambda part, start=start: padded(slice(start + part.start, start + part.stop)),
      (batch, *images.shape[1:]),
    )
    results.append(sharding.fetch(apply(variables, rows)))
  return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(images)], *results)


@flax.struct.dataclass
class Fitted:
  """A model in training with its learning curves; what a checkpoint of a victim holds.

  Attributes:
    state: the model.
    sums: of the running epoch.
    curve: per epoch: training loss (nats), training accuracy, test accuracy and, with validation
      images, validation accuracy (percent), float32 `[epochs, 3 or 4]`.
    seconds: spent so far, over all sittings.
  """

  state: State
  sums: Sums
  curve: jax.Array
  seconds: jax.Array


def fit(
  module: nn.Module,
  config: Fit,
  train: Split,
  test: Split,
  *,
  seed: int,
  name: str,
  checkpoints: Checkpoints,
  progress: Reporter,
  hooks: hooks_lib.Hooks = hooks_lib.NONE,
  validation: Split | None = None,
) -> Fitted:
  """Trains `module` on `train`, testing after every epoch; resumes from its checkpoint.

  Args:
    module: returns (features, logits).
    config: the recipe.
    train: training images; their labels are what the model learns.
    test: clean images for the learning curve.
    seed: of initial weights, order and augmentation.
    name: for the log.
    checkpoints: where states go.
    progress: makes the reporter of the stage.
    hooks: what a defence does to every batch.
    validation: more images for the learning curve, by which a training could be stopped.

  Raises:
    signals.Interrupted: a signal came; the state is saved.
    UserError: the loss is not finite, fewer images than one batch, or weights to start from that
      are not those of this network.
  """
  layout = lanes.lay_out(len(train), (config.batch_size,), seed)
  steps = layout.steps(config.batch_size, partial=False)
  if steps == 0:
    raise UserError(
      f"{len(train)} training images do not fill one batch of {config.batch_size}: lower "
      "batch_size."
    )
  table = layout.place(train)
  fitted = fresh(module, config, train, seed, columns=3 if validation is None else 4)
  if config.start_from:
    fitted = fitted.replace(state=_pretrained(fitted.state, config.start_from))
  position, fitted = checkpoints.restore(fitted) or (0, fitted)
  report = progress(name, config.epochs * steps, config.epochs, position)
  clock = Clock(fitted.seconds)
  with signals.stop_on_signal():
    for epoch in range(position // steps, config.epochs):
      acting = hooks.at(epoch, config.epochs)
      order, run, predict = _compiled(module, config, steps, acting, jax.sharding.get_mesh())
      key = prng.stream(seed, "fit", epoch)
      constants = Pass(table, None, order(key, table.ids), key)
      (state, sums), reached = run(
        (fitted.state, fitted.sums),
        constants,
        position % steps,
        steps,
        tick=lambda index, done=epoch * steps: report.tick(done + index),
      )
      fitted = fitted.replace(state=state, sums=sums, seconds=clock.read())
      if reached < steps:
        checkpoints.save(epoch * steps + reached, fitted)
        raise signals.Interrupted(signals.received())
      position = (epoch + 1) * steps
      loss, accuracy = sums.read(f"{name}, epoch {epoch + 1}")
      scores = {"loss": loss, "train_accuracy": accuracy}
      for part, split in (("test", test), ("validation", validation)):
        if split is not None:
          _, logits = predict(state, split.images)
          hits = np.argmax(logits, axis=1) == split.labels
          scores[f"{part}_accuracy"] = 100 * float(np.mean(hits))
      curve = np.array(sharding.fetch(fitted.curve))
      curve[epoch] = list(scores.values())
      fitted = fitted.replace(
        curve=sharding.replicate(curve), sums=Sums.zero(), seconds=clock.read()
      )
      report.report(position, epoch + 1, scores)
      if (epoch + 1) % config.checkpoint_every == 0 or epoch + 1 == config.epochs:
        checkpoints.save(position, fitted)
  report.close()
  return fitted


def fresh(module: nn.Module, config: Fit, train: Split, seed: int, columns: int = 3) -> Fitted:
  """An untrained `Fitted` on the mesh; also the shape that a checkpoint is restored to."""
  optimiser = sgd(config, config.epochs, max(len(train) // config.batch_size, 1))
  return Fitted(
    init(module, optimiser, prng.stream(seed, "weights"), train.images.shape[1:]),
    Sums.zero(),
    sharding.replicate(np.zeros((config.epochs, columns), np.float32)),
    sharding.replicate(np.float32(0)),
  )


def _pretrained(state: State, path: str) -> State:
  """A fresh state with the weights of a file; the optimiser knows nothing of their training."""
  variables = pretrained.transplant(pretrained.load(path), sharding.fetch(state.variables))
  return state.replace(**sharding.replicate(variables))


@functools.lru_cache(maxsize=2)
def inference(module: nn.Module, mesh: jax.sharding.Mesh):
  """The forward pass that all predictors of a module share: compiled once, not once a victim."""
  del mesh  # part of the key, as in `_compiled`

  def local(variables, images):
    return module.apply(variables, images.astype(jnp.float32) / 255, train=False)

  return jax.jit(jax.shard_map(local, in_specs=(jax.P(), jax.P(AXIS)), out_specs=jax.P(AXIS)))


@functools.lru_cache(maxsize=8)
def _compiled(
  module: nn.Module, config: Fit, steps: int, hooks: hooks_lib.Hooks, mesh: jax.sharding.Mesh
):
  """What `fit` compiles, kept for the next seed, condition or defence that acts alike."""
  del mesh  # part of the key: a compiled step belongs to its mesh
  optimiser = sgd(config, config.epochs, steps)
  inputs = plain_inputs(config.augment)
  run = loops.repeated(train_step(module, optimiser, inputs, jax.P(AXIS), hooks))
  return shuffler(config.batch_size), run, Predictor(module)


class Clock:
  """Seconds over several sittings."""

  def __init__(self, before: jax.Array):
    self._before, self._began = float(before), time.monotonic()

  def read(self) -> jax.Array:
    """Seconds so far, on every device of the mesh."""
    return sharding.replicate(np.float32(self._before + time.monotonic() - self._began))
