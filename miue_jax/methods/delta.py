"""Delta: which images it changes, where it starts, how a step moves it, what remains of it."""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import budget, objectives
from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.pool import Draw, stratified
from miue_jax.machine import loops, prng, sharding
from miue_jax.machine.meshes import AXIS
from miue_jax.settings.config import Config, Method
from miue_jax.settings.errors import UserError
from miue_jax.train import fit, lanes
from miue_jax.transforms import hooks, recompression
from miue_jax.transforms.augment import augment

# (features, logits, labels, weights) of the local rows -> one loss per row; weight 0 is padding.
Objective = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]

# (its state, clean features, poisoned features, weights) of the local rows -> one loss per row that
# joins the objective's, and the state when it has learned from these features.
Term = Callable[[Any, jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]

_ADVERSARY = zlib.crc32(b"adversary")  # names its random stream


@dataclasses.dataclass(frozen=True)
class Auxiliary:
  """A network that learns from features while delta moves, and has a say in where it goes.

  Attributes:
    start: `(key, number of features) -> state`, traceable.
    term: what it adds to the objective.
  """

  start: Callable[[jax.Array, int], Any]
  term: Term


@flax.struct.dataclass
class DeltaPass:
  """Constants of a delta pass: the source model is frozen, sizes change by epoch."""

  source: fit.State
  data: fit.Pass
  perturbed: jax.Array
  step_size: jax.Array
  epsilon: jax.Array


def lay_out(train: Split, config: Config) -> lanes.Layout:
  """Lanes for the batches of the source model and of delta.

  Raises:
    UserError: a budget in another norm, or fewer images than one source batch.
  """
  method, batch = config.method, config.source.batch_size
  if method.norm != "linf":
    raise UserError(
      f"Method {method.name} keeps a budget for every pixel, which method.norm={method.norm} does "
      "not bound: set method.norm=linf."
    )
  if len(train) < batch:
    raise UserError(
      f"{len(train)} training images do not fill one source batch of {batch}: set "
      "source.batch_size and method.batch_size to at most that many."
    )
  return lanes.lay_out(len(train), (batch, method.batch_size), config.seed)


def chosen_images(labels: np.ndarray, method: Method, seed: int) -> np.ndarray:
  """Which images are perturbed, bool `[N]`: a part of each class, or of one alone.

  `fraction`, `class_fractions` and `only_class` say which part. Stratified, drawn by `seed`; a
  smaller fraction is contained in a larger one.

  Raises:
    UserError: there are none.
  """
  chosen = np.zeros(len(labels), bool)
  if method.class_fractions:
    for label, fraction in enumerate(method.class_fractions):
      ids = np.flatnonzero(labels == label)
      drawn = stratified(labels[ids], round(fraction * len(ids)), seed, Draw.PERTURBED)
      chosen[ids[drawn]] = True
  else:
    chosen[stratified(labels, round(method.fraction * len(labels)), seed, Draw.PERTURBED)] = True
  chosen &= (labels == method.only_class) | (method.only_class == -1)
  if not chosen.any():
    if method.class_fractions:
      asked = f"method.class_fractions={method.class_fractions}"
    else:
      asked = f"method.fraction={method.fraction:g} with method.only_class={method.only_class}"
    raise UserError(
      f"{asked} leaves no image to perturb: raise a fraction or choose another class."
    )
  return chosen


def perturbed_rows(chosen: np.ndarray, layout: lanes.Layout) -> jax.Array:
  """Which rows on the devices hold a chosen image, bool `[rows]`, from bool `[N]`."""
  return sharding.shard((layout.ids >= 0) & chosen[np.maximum(layout.ids, 0)])


def first_delta(
  dataset: Dataset, method: Method, layout: lanes.Layout, seed: int | tuple[int, ...]
) -> jax.Array:
  """Where delta starts: packed `[classes or rows, H, W, C]`, replicated or sharded."""
  image_shape = dataset.train.images.shape[1:]
  rows = dataset.num_classes if method.class_wise else len(layout.ids)
  if method.init == "zeros":
    spec = jax.P() if method.class_wise else jax.P(AXIS)
    return sharding.zeros((rows, *image_shape), np.int16, spec)

  def noise(ids: np.ndarray) -> np.ndarray:
    uniform = _uniform(ids, image_shape, seed)
    parts = budget.resolution(method.epsilon_start)
    return budget.pack(np.float32(method.epsilon) * (2 * uniform - 1), parts)

  if method.class_wise:
    return sharding.replicate(noise(np.arange(rows)))
  ids = np.maximum(layout.ids, 0)
  return sharding.shard_rows(lambda part: noise(ids[part]), (rows, *image_shape))


def _uniform(ids: np.ndarray, shape: tuple[int, ...], seed: int | tuple[int, ...]) -> np.ndarray:
  """Uniform float32 noise in [0, 1) of examples `ids`, `[len(ids), *shape]`.

  One stream for all examples, in blocks: no process holds the noise of the others' examples.
  """
  generator = np.random.default_rng(seed)
  noise = np.empty((len(ids), *shape), np.float32)
  for block in budget.blocks((ids.max() + 1, *shape)):
    drawn = generator.random((block.stop - block.start, *shape), np.float32)
    inside = (block.start <= ids) & (ids < block.stop)
    noise[inside] = drawn[ids[inside] - block.start]
  return noise


def released(
  layout: lanes.Layout, table: lanes.Table, delta: jax.Array, perturbed: jax.Array, method: Method
) -> np.ndarray | None:
  """What remains of delta in stored images, int8 in example order, on the lead; None elsewhere.

  Every process must call this. Gives up the table's images and delta: the caller is done with them,
  and what comes next needs the memory.
  """
  patterns = sharding.fetch(delta) if method.class_wise else None
  parts = budget.resolution(method.epsilon_start)

  def quantised(rows) -> np.ndarray:
    images, labels, chosen, stored = rows
    exact = budget.unpack(patterns[labels] if method.class_wise else stored, parts)
    result = budget.quantise(images, exact, method.epsilon, method.rounding)
    result[~chosen] = 0
    return result

  rows = (table.images, table.labels, perturbed, None if method.class_wise else delta)
  result = layout.fetch(rows, quantised, table.images.shape[1:])
  for done in (table.images, delta):
    done.delete()
  return result


def source_inputs(
  config: Config, squeeze: recompression.Squeeze = recompression.untouched
) -> fit.Inputs:
  """Images that the source model learns from: what a victim would see, squeezed or not."""
  method, kind = config.method, config.source.augment
  parts = budget.resolution(method.epsilon_start)

  def inputs(batch, perturbation, rows, keys):
    images = batch.images.astype(jnp.float32) / 255
    stored, perturbed = perturbation
    delta = budget.unpack(stored[batch.labels if method.class_wise else rows], parts)
    delta = jnp.where(perturbed[rows, None, None, None], delta, 0.0)
    if method.augment_poisoned:
      return augment(kind, keys, squeeze(keys, _added(images, delta, method)))
    return squeeze(keys, _added(augment(kind, keys, images), delta, method))

  return inputs


def auxiliary_state(
  auxiliary: Auxiliary | None, module: nn.Module, key: jax.Array, image: tuple[int, ...]
) -> Any:
  """Where a auxiliary of a source model of images `[H, W, C]` starts; None without one."""
  if auxiliary is None:
    return None
  images = jax.ShapeDtypeStruct((1, *image), jnp.float32)
  (features, _), _ = jax.eval_shape(module.init_with_output, key, images)
  return auxiliary.start(key, features.shape[1])


# (constants, batch, images, weights, index) of the local rows -> what `delta` of these rows costs,
# given the auxiliary's state: its loss over the global batch, which rows count as right, and the
# auxiliary's state afterwards.
Loss = Callable[
  [DeltaPass, lanes.Table, jax.Array, jax.Array, jax.Array],
  Callable[[jax.Array, Any], tuple[jax.Array, tuple[jax.Array, Any]]],
]


def delta_step(
  module: nn.Module,
  method: Method,
  objective: Objective,
  adversary: hooks.Adversary | None = None,
  auxiliary: Auxiliary | None = None,
  squeeze: recompression.Squeeze = recompression.untouched,
) -> loops.Step:
  """The sign step of an objective that judges one view of the batch at a time.

  Args:
    module: returns (features, logits).
    method: the settings.
    objective: what delta minimises, averaged over `method.draws` views.
    adversary: moves every view of the poisoned images before the objective judges it; the gradient
      takes what it adds for a constant.
    auxiliary: adds its term to every view, of which it sees the clean images as well.
    squeeze: what every poisoned image loses before it is augmented.
  """
  on_device = loops.loops_on_device()

  def loss(constants, batch, images, weights, index):
    total = jax.lax.psum(jnp.sum(weights), AXIS)

    def view(delta, key):
      delta = delta[batch.labels] if method.class_wise else delta
      keys = prng.example_keys(key, batch.ids)
      poisoned = squeeze(keys, _added(images, delta, method))
      return augment(method.augment, keys, poisoned) if method.augment_poisoned else poisoned

    def source(images):
      return module.apply(constants.source.variables, images, train=False)

    def judged(inputs):
      images, labels, keys = inputs
      if adversary:
        frozen = jax.lax.stop_gradient(images)
        worst = adversary(keys, frozen, lambda x: objectives.cross_entropy(source(x)[1], labels))
        images += worst - frozen
      return source(images)

    def loss_of(delta, beside):
      losses, hits = [], []
      for draw in range(method.draws if method.augment_poisoned else 1):
        key = jax.random.fold_in(constants.data.key, index * method.draws + draw)
        keys = prng.example_keys(jax.random.fold_in(key, _ADVERSARY), batch.ids)
        inputs = view(delta, key), batch.labels, keys
        features, logits = in_parts(judged, inputs, method, on_device)
        rowwise = objective(features, logits, batch.labels, weights)
        if auxiliary:
          clean, _ = in_parts(source, view(jnp.zeros_like(delta), key), method, on_device)
          term, beside = auxiliary.term(beside, clean, features, weights)
          rowwise += term
        losses.append(jax.lax.psum(jnp.sum(weights * rowwise), AXIS) / jnp.maximum(total, 1e-12))
        hits.append(jnp.argmax(logits, axis=1) == batch.labels)
      return sum(losses) / len(losses), (sum(hits) / len(hits), beside)

    return loss_of

  return sign_step(method, loss)


def sign_step(method: Method, loss: Loss) -> loops.Step:
  """One sign step on one batch, `(carry, DeltaPass, index) -> carry`.

  The carry is `(delta, Sums, state of the auxiliary)`. Index counts sign steps: batch
  `index // steps`, step `index % steps`. With `method.stop_error` the sums count correct
  predictions as well: of the images of a batch as its last step found them.

  Args:
    method: the settings.
    loss: what delta minimises.
  """
  parts = budget.resolution(method.epsilon_start)

  def local(carry, constants, index):
    table, sums, beside = carry
    rows, batch = constants.data.batch(index // method.steps)
    images = batch.images.astype(jnp.float32) / 255
    valid = constants.perturbed[rows]
    weights = _weights(batch.labels, valid, method.balanced)
    if not method.augment_poisoned:
      # As in the authors' recipe an image is transformed once per visit and delta added after it.
      keys = prng.example_keys(constants.data.key, batch.ids)
      images = augment(method.augment, keys, images)

    loss_of = loss(constants, batch, images, weights, index)
    stored = table if method.class_wise else table[rows]
    delta = budget.unpack(stored, parts)
    (value, (hits, beside)), gradient = jax.value_and_grad(loss_of, has_aux=True)(delta, beside)
    moved = budget.descend(delta, gradient, constants.step_size)
    if method.class_wise:
      table = budget.pack(jnp.clip(moved, -constants.epsilon, constants.epsilon), parts)
    else:
      moved = budget.pack(budget.project(images, moved, constants.epsilon), parts)
      table = table.at[rows].set(jnp.where(valid[:, None, None, None], moved, stored))
    correct = count = 0.0
    if method.stop_error:
      last = valid & (index % method.steps == method.steps - 1)
      correct, count = jax.lax.psum((jnp.sum(last * hits), jnp.sum(last)), AXIS)
    return table, sums.add(index, value, correct, count), beside

  delta_spec = jax.P() if method.class_wise else jax.P(AXIS)
  constants_spec = DeltaPass(jax.P(), fit.pass_spec(delta_spec), jax.P(AXIS), jax.P(), jax.P())
  return jax.shard_map(
    local,
    in_specs=((delta_spec, jax.P(), jax.P()), constants_spec, jax.P()),
    out_specs=(delta_spec, jax.P(), jax.P()),
  )


def in_parts(
  apply: Callable[[Any], Any], inputs: Any, method: Method, on_device: bool
) -> tuple[jax.Array, jax.Array]:
  """Returns `apply(inputs)`, computed for `method.microbatch` images (of all devices) at a time.

  The backward pass computes each part again, so that only one part's activations are held; the loss
  is still that of the whole batch (as in Gao et al., "Scaling Deep Contrastive Learning Batch Size
  under Memory Limited Setup", 2021).
  """
  if not method.microbatch:
    return apply(inputs)
  count = method.batch_size // method.microbatch
  parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), inputs)
  if not on_device:
    each = (jax.tree.map(lambda x, n=n: x[n], parts) for n in range(count))
    return jax.tree.map(lambda *x: jnp.concatenate(x), *map(jax.checkpoint(apply), each))
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
