"""Provides the training step, its state and its running sums, for source models and victims."""

import zlib
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from miue_jax import models
from miue_jax.machine import loops, prng, sharding
from miue_jax.machine.meshes import AXIS
from miue_jax.settings.config import Augmentation, Sgd
from miue_jax.settings.errors import UserError
from miue_jax.train import lanes
from miue_jax.transforms import augment, identity
from miue_jax.transforms import hooks as hooks_lib


class State(flax.struct.PyTreeNode):
  """A model in training: parameters, BatchNorm statistics, optimiser state."""

  params: Any
  batch_stats: Any
  opt_state: Any

  @property
  def variables(self) -> dict[str, Any]:
    """Returns the first argument of `module.apply`."""
    return {"params": self.params, "batch_stats": self.batch_stats}


class Frozen(State):
  """A model that does not change while steps apply it.

  Attributes:
    folded: Variables that follow from the others, which steps need not compute again.
  """

  folded: Any

  @property
  def variables(self) -> dict[str, Any]:
    """Returns the first argument of `models.infer`."""
    return super().variables | self.folded

  @classmethod
  def of(cls, module: nn.Module, state: State, image: tuple[int, ...]) -> "Frozen":
    """Returns the model of a state, for images `[H, W, C]`; traceable."""
    folded = models.fold(module, state.variables, image)
    return cls(state.params, state.batch_stats, state.opt_state, folded)


class Sums(flax.struct.PyTreeNode):
  """Running sums of one pass, kept on the device so that no step waits for the host.

  Attributes:
    loss: Sum of batch losses.
    steps: Number of batches.
    correct: Number of examples that were classified correctly.
    count: Number of examples.
    first_bad: Index of the first batch whose loss was not finite, or -1.
  """

  loss: jax.Array
  steps: jax.Array
  correct: jax.Array
  count: jax.Array
  first_bad: jax.Array

  @classmethod
  def empty(cls) -> "Sums":
    """Returns empty sums as NumPy scalars."""
    scalars: Any = (*(np.float32(0) for _ in range(4)), np.int32(-1))
    return cls(*scalars)

  @classmethod
  def zero(cls) -> "Sums":
    """Returns empty sums on every device of the mesh."""
    return sharding.replicate(cls.empty())

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
    """Returns the mean loss and the accuracy (percent) on the host.

    Args:
      what: Name of the trained model or delta, for the message.

    Raises:
      UserError: A loss was not finite.
    """
    sums = sharding.fetch(self)
    if sums.first_bad >= 0:
      raise UserError(
        f"The loss of {what} is not finite at step {sums.first_bad}: lower the learning rate or "
        "use dtype float32."
      )
    return float(sums.loss / sums.steps), float(100 * sums.correct / max(sums.count, 1))


class Pass(flax.struct.PyTreeNode):
  """The constants of one pass over the data, which a step reads and does not change.

  Attributes:
    table: The examples.
    delta: Perturbation that the inputs of a method add to the images; None for stored images.
    order: Rows of every batch, `[lanes, batches]`.
    key: Random key of this pass.
  """

  table: lanes.Table
  delta: Any
  order: jax.Array
  key: jax.Array

  def batch(self, index: jax.Array) -> tuple[jax.Array, lanes.Table]:
    """Returns the local rows of batch `index`, and their examples."""
    rows = self.order[:, index]
    return rows, self.table.batch(rows)


def pass_spec(delta: Any) -> Pass:
  """Returns the partition specs of a `Pass`, given those of its delta."""
  rows: Any = jax.P(AXIS)
  whole: Any = jax.P()
  return Pass(rows, delta, rows, whole)


def example_pass(layout: lanes.Layout, images: Any, labels: Any, batch: int) -> Pass:
  """Returns a traceable `Pass` over all images, to compile a step for without data."""
  key, ids, image = jax.random.key(0), jnp.asarray(layout.ids), images.shape[1:]
  table = lanes.Table(images.reshape(-1, *lanes.row_shape(image)), labels, ids, image)
  return Pass(table, None, lanes.shuffle(key, ids, batch), key)


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
  """Returns SGD with momentum and weight decay as in PyTorch.

  With `learning_rate` r and `final_learning_rate` f, the rate of epoch e of E (from 1) is
  `f + (r - f) (1 + cos(pi (e - 1) / E)) / 2` for the schedule `cosine`. For `steps` it is r,
  divided by 10 after 40 % and again after 80 % of the epochs. `onecycle` changes the rate in every
  step (Smith and Topin, 2018): it rises from r / 25 to r and falls to r / 250,000.
  """
  one_cycle = optax.cosine_onecycle_schedule(max(1, epochs * steps_per_epoch), config.learning_rate)

  def schedule(count):
    if config.schedule == "onecycle":
      return one_cycle(count)
    epoch = count // steps_per_epoch
    if config.schedule == "steps":
      drops = sum((epoch >= share * epochs).astype(jnp.float32) for share in (0.4, 0.8))
      return config.learning_rate * 0.1**drops
    turn = (1 + jnp.cos(jnp.pi * epoch / epochs)) / 2
    return config.final_learning_rate + turn * (config.learning_rate - config.final_learning_rate)

  return optax.chain(
    optax.add_decayed_weights(config.weight_decay), optax.sgd(schedule, config.momentum)
  )


def fresh_state(
  module: nn.Module, optimiser: Any, key: jax.Array, image: tuple[int, int, int]
) -> State:
  """Returns the initial state of a network for images `[H, W, C]`; traceable."""
  variables = models.init(module, key, image)
  params = variables["params"]
  return State(params, variables["batch_stats"], optimiser.init(params))


# (batch, Pass.delta, rows, keys) -> float images [batch, H, W, C].
Inputs = Callable[[lanes.Table, Any, jax.Array, jax.Array], jax.Array]


def plain_inputs(kind: Augmentation, transformation: hooks_lib.Transformation = identity) -> Inputs:
  """Returns the inputs of a victim: stored images, transformed and augmented."""

  def inputs(batch, delta, rows, keys):
    del delta, rows
    images = transformation(keys, batch.images.astype(jnp.float32) / 255)
    return augment(kind, keys, images)

  return inputs


def applied(
  module: nn.Module, state: State, params: Any, images: jax.Array, key: jax.Array
) -> tuple[Any, Any]:
  """Returns the outputs of a network in training, and its new BatchNorm statistics.

  Args:
    module: The network.
    state: Its state, of which the BatchNorm statistics are read.
    params: Its parameters.
    images: Float inputs of this device.
    key: Random key of dropout.
  """
  variables = {"params": params, "batch_stats": state.batch_stats}
  outputs, updated = module.apply(
    variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key}
  )
  return outputs, updated.get("batch_stats", {})


# (outputs `(features, logits)` of the inputs) -> one loss per row, and a mask of correct rows.
Criterion = Callable[[tuple[jax.Array, jax.Array]], tuple[jax.Array, jax.Array]]


def update(
  state: State,
  sums: Sums,
  module: nn.Module,
  optimiser: Any,
  images: jax.Array,
  criterion: Criterion,
  index: jax.Array,
  key: jax.Array,
) -> tuple[State, Sums]:
  """Takes one optimiser step on the mean of `criterion`, inside `shard_map`.

  Args:
    state: The model.
    sums: Running sums, which gain this batch.
    module: Network that returns (features, logits).
    optimiser: An optax transformation.
    images: Float inputs of this device.
    criterion: Loss of the network's outputs.
    index: Number of the batch.
    key: Random key of the pass, for dropout.
  """

  def loss_of(params):
    outputs, batch_stats = applied(module, state, params, images, jax.random.fold_in(key, index))
    losses, hits = criterion(outputs)
    # The mean over devices belongs inside: gradients of replicated parameters arrive summed.
    return jax.lax.pmean(jnp.mean(losses), AXIS), (hits, batch_stats)

  (loss, (hits, batch_stats)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
  updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  correct = jax.lax.psum(jnp.sum(hits), AXIS)
  count = len(hits) * jax.lax.axis_size(AXIS)
  return State(params, batch_stats, opt_state), sums.add(index, loss, correct, count)


def train_step(
  module: nn.Module,
  optimiser: Any,
  inputs: Inputs,
  delta_spec: Any,
  hooks: hooks_lib.Hooks = hooks_lib.NONE,
) -> loops.Step:
  """Returns one SGD step, `((State, Sums), Pass, index) -> (State, Sums)`, over the mesh.

  Args:
    module: Network that returns (features, logits).
    optimiser: An optax transformation.
    inputs: Makes the float images of a batch.
    delta_spec: Partition specs of `Pass.delta`.
    hooks: Changes that a defence makes to the batch.
  """

  def local(carry, constants, index):
    state, sums = carry
    rows, batch = constants.batch(index)
    keys = prng.example_keys(constants.key, batch.ids)
    images = inputs(batch, constants.delta, rows, keys)
    chex.assert_rank(images, 4)
    targets = hooks_lib.Targets.hard(batch.labels)
    if hooks.augment:
      images, targets = hooks.augment(_hook_keys(constants, batch, "augment"), images, targets)
    if hooks.adversary:

      def frozen_loss(images):
        return targets.loss(models.infer(module, state.variables, images)[1])

      images = hooks.adversary(_hook_keys(constants, batch, "adversary"), images, frozen_loss)

    def criterion(outputs):
      _, logits = outputs
      return targets.loss(logits), targets.correct(logits)

    return update(state, sums, module, optimiser, images, criterion, index, constants.key)

  return jax.shard_map(local, in_specs=(jax.P(), pass_spec(delta_spec), jax.P()), out_specs=jax.P())


def _hook_keys(constants: Pass, batch: lanes.Table, name: str) -> jax.Array:
  """Returns one key per example, different from those of every other use."""
  key = jax.random.fold_in(constants.key, zlib.crc32(name.encode()))
  return prng.example_keys(key, batch.ids)
