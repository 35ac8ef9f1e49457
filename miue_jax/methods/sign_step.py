"""Provides the sign step that moves the perturbations of a batch of images."""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from miue_jax import budget, models, objectives
from miue_jax.machine import cpu, loops, prng
from miue_jax.machine.meshes import AXIS
from miue_jax.methods.delta import Delta, DeltaPass
from miue_jax.train import lanes
from miue_jax.transforms import Adversary, Transformation, augment, identity

# (features, logits, labels, weights, settings) of the local rows -> one loss per row; rows of
# weight 0 are padding.
Objective = Callable[[jax.Array, jax.Array, jax.Array, jax.Array, Any], jax.Array]

# (its state, clean features, poisoned features, weights) of the local rows -> one loss per row,
# which is added to the objective, and the state after learning from these features.
Term = Callable[[Any, jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]

_ADVERSARY = zlib.crc32(b"adversary")  # name of its random stream


@dataclasses.dataclass(frozen=True)
class Auxiliary:
  """A network that learns from features while delta moves, and adds a term to the objective.

  Attributes:
    start: Makes its state, `(key, number of features) -> state`; traceable.
    term: Its term of the objective.
  """

  start: Callable[[jax.Array, int], Any]
  term: Term

  def state(self, module: nn.Module, key: jax.Array, image: tuple[int, ...]) -> Any:
    """Returns the initial state for the features that `module` has of images `[H, W, C]`."""
    images = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    (features, _), _ = jax.eval_shape(module.init_with_output, key, images)
    return self.start(key, features.shape[1])


# (constants, batch, images, weights, index, delta) of the local rows -> function of the variable
# entries and the auxiliary network's state, which returns the loss over the global batch, a mask of
# the rows that are right, and the auxiliary network's next state.
Loss = Callable[
  [DeltaPass, lanes.Table, jax.Array, jax.Array, jax.Array, Delta],
  Callable[[jax.Array, Any], tuple[ArrayLike, tuple[ArrayLike, Any]]],
]


def delta_step(
  module: nn.Module,
  settings: Any,
  objective: Objective,
  adversary: Adversary | None = None,
  auxiliary: Auxiliary | None = None,
  transformation: Transformation = identity,
) -> loops.Step:
  """Returns the sign step of an objective that judges one view of the batch at a time.

  Args:
    module: Source model, which returns (features, logits).
    settings: Settings of the method.
    objective: Loss that delta minimises, averaged over `settings.draws` views.
    adversary: Moves every view of the poisoned images before the objective judges it; its change is
      constant for the gradient.
    auxiliary: Adds its term to every view, of which it sees the clean images as well.
    transformation: Input transformation of every poisoned image, before augmentation.
  """

  def loss(constants, batch, images, weights, index, delta):
    total = jax.lax.psum(jnp.sum(weights), AXIS)

    def view(variable, key):
      keys = prng.example_keys(key, batch.ids)
      perturbation = delta.of_images(variable, batch.labels)
      poisoned = transformation(keys, delta.added(images, perturbation))
      return augment(settings.augment, keys, poisoned) if settings.augment_poisoned else poisoned

    def source(images):
      return models.infer(module, constants.source.variables, images)

    def judged(inputs):
      images, labels, keys = inputs
      if adversary:
        frozen = jax.lax.stop_gradient(images)
        worst = adversary(keys, frozen, lambda x: objectives.cross_entropy(source(x)[1], labels))
        images += worst - frozen
      return source(images)

    def loss_of(variable, state):
      losses, hits = [], []
      for draw in range(settings.draws if settings.augment_poisoned else 1):
        key = jax.random.fold_in(constants.data.key, index * settings.draws + draw)
        keys = prng.example_keys(jax.random.fold_in(key, _ADVERSARY), batch.ids)
        inputs = view(variable, key), batch.labels, keys
        features, logits = in_parts(judged, inputs, settings)
        rowwise = objective(features, logits, batch.labels, weights, settings)
        chex.assert_equal_shape((rowwise, weights))
        if auxiliary:
          clean, _ = in_parts(source, view(jnp.zeros_like(variable), key), settings)
          term, state = auxiliary.term(state, clean, features, weights)
          rowwise += term
        losses.append(jax.lax.psum(jnp.sum(weights * rowwise), AXIS) / jnp.maximum(total, 1e-12))
        hits.append(jnp.argmax(logits, axis=1) == batch.labels)
      return sum(losses) / len(losses), (sum(hits) / len(hits), state)

    return loss_of

  return sign_step(settings, loss)


def sign_step(settings: Any, loss: Loss) -> loops.Step:
  """Returns one sign step on one batch, `(carry, DeltaPass, index) -> carry`.

  The carry is `(Delta, Sums, state of the auxiliary network)`. The index counts sign steps: step
  `index % steps` of batch `index // steps`. With `settings.stop_error` the sums count correct
  predictions as well, of the images of a batch in its last step.

  Args:
    settings: Settings of the method.
    loss: Loss that delta minimises.
  """

  def local(carry, constants, index):
    delta, sums, auxiliary = carry
    rows, batch = constants.data.batch(index // settings.steps)
    images = batch.images.astype(jnp.float32) / 255
    valid = constants.perturbed[rows]
    weights = _weights(batch.labels, constants.compared[rows], settings.balanced)
    if not settings.augment_poisoned:
      # As in the authors' code, each visit transforms an image once and adds delta afterwards.
      keys = prng.example_keys(constants.data.key, batch.ids)
      images = augment(settings.augment, keys, images)

    loss_of = loss(constants, batch, images, weights, index, delta)
    variable = delta.variable(rows)
    (value, (hits, auxiliary)), gradient = jax.value_and_grad(loss_of, has_aux=True)(
      variable, auxiliary
    )
    variable = budget.descend(variable, gradient, constants.step_size)
    delta = delta.moved(variable, rows, images, valid, settings.epsilon)
    correct = count = 0.0
    if settings.stop_error:
      last = valid & (index % settings.steps == settings.steps - 1)
      correct, count = jax.lax.psum((jnp.sum(last * hits), jnp.sum(last)), AXIS)
    return delta, sums.add(index, value, correct, count), auxiliary

  carry_spec = (Delta.spec(settings), jax.P(), jax.P())
  return jax.shard_map(
    local,
    in_specs=(carry_spec, DeltaPass.spec(settings), jax.P()),
    out_specs=carry_spec,
  )


def in_parts(
  apply: Callable[[Any], Any], inputs: Any, settings: Any
) -> tuple[jax.Array, jax.Array]:
  """Returns `apply(inputs)`, computed for `microbatch` images (of all devices) at a time.

  The backward pass computes each part again, so that only one part's activations are held; the loss
  is still that of the whole batch (Gao et al., "Scaling Deep Contrastive Learning Batch Size under
  Memory Limited Setup", 2021).
  """
  if not settings.microbatch:
    return apply(inputs)
  count = settings.batch_size // settings.microbatch
  parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), inputs)
  if cpu.in_use():
    each = (jax.tree.map(lambda x, n=n: x[n], parts) for n in range(count))
    return jax.tree.map(lambda *x: jnp.concatenate(x), *map(jax.checkpoint(apply), each))
  outputs = jax.lax.map(jax.checkpoint(apply), parts)
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)


def _weights(labels: jax.Array, valid: jax.Array, balanced: bool) -> jax.Array:
  """Returns the weight of every local row: 1, or 1 over the size of its class in the batch."""
  if not balanced:
    return valid.astype(jnp.float32)
  everywhere = objectives.class_balance(*jax.lax.all_gather((labels, valid), AXIS, tiled=True))
  start = jax.lax.axis_index(AXIS) * len(labels)
  return jax.lax.dynamic_slice_in_dim(everywhere, start, len(labels))
