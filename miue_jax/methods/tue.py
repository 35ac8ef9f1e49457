"""TUE: transferable unlearnable examples (Ren et al., ICLR 2023).

  theta <- argmin  L_con(T(x + delta), T'(x + delta))                      source model, one pass
  delta <- argmin  L_con(T(x + delta), T'(x + delta)) + zeta L_csd(delta, y)    sign steps, one pass
  repeat for every epoch;   |delta| <= eps

L_con is the contrastive loss of SimCLR between two random views of each image: it needs no labels,
so that the poison also spoils training without them. L_csd asks that the perturbations of one class
are close to each other and far from those of the others, which makes the poison spoil supervised
training. T is `method.augment`, then random brightness, contrast, saturation and gray.

The paper's SimCLR projects features by two layers onto 128 outputs and draws random resized crops
and hues; here the last layer of the source model is the projection, crops keep their size, and hue
stays. L_csd is that of the batch of a delta step. `method.tau` is the temperature of L_con; how the
source model is trained (`source`) is not the paper's.
"""

import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from miue_jax.data.dataset import Dataset
from miue_jax.machine import loops, prng
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.meshes import AXIS
from miue_jax.machine.progress import Reporter
from miue_jax.methods import alternating
from miue_jax.methods import delta as deltas
from miue_jax.methods.generated import Generated
from miue_jax.objectives import MIN_NORM
from miue_jax.settings.config import Config, Method
from miue_jax.settings.errors import UserError
from miue_jax.train import fit
from miue_jax.transforms.augment import augment
from miue_jax.transforms.recompression import grayscale

_OUTPUTS = 128  # of the projection, as in SimCLR
_COLOUR = zlib.crc32(b"colour")  # names its random stream
_STRENGTH = 0.4  # of SimCLR's colour distortion on CIFAR-10: factors in [1 - s, 1 + s] ...
_JITTERED, _GRAY = 0.8, 0.2  # ... and the probabilities of that and of gray
_CLOSE = 1e-6  # centroids at this distance are one: their pair does not count


def generate(
  dataset: Dataset, config: Config, checkpoints: Checkpoints, progress: Reporter
) -> Generated:
  """Makes a TUE poison; arguments and errors as `alternating.generate`."""
  method = config.method
  if method.class_wise or not method.augment_poisoned:
    raise UserError(
      f"Method {method.name} compares views of single poisoned images: set method.class_wise=False "
      "and method.augment_poisoned=True."
    )
  return alternating.generate(dataset, config, bilevel(method), checkpoints, progress)


def bilevel(method: Method) -> alternating.Bilevel:
  """What each side does."""
  del method
  return alternating.Bilevel(outputs=_OUTPUTS, source_step=_source_step, delta_step=_delta_step)


def contrast(
  views: tuple[jax.Array, jax.Array], weights: jax.Array, tau: float
) -> tuple[jax.Array, jax.Array]:
  """SimCLR's loss of the local rows against the global batch, inside `shard_map`.

  Of a view z and the other view z' of the same image, `-log( exp(cos(z, z') / tau) / sum_{k != z}
  exp(cos(z, k) / tau) )`, k over both views of all images (Chen et al., ICML 2020).

  Args:
    views: two arrays `[rows, outputs]`.
    weights: of the rows; 0 for padding, which is no k either.
    tau: temperature.

  Returns:
    One loss per row, the mean of its views (nats); whether z' is nearest to the first view.
  """
  units = [z * jax.lax.rsqrt(jnp.maximum(_squares(z), MIN_NORM**2))[:, None] for z in views]
  everywhere = jax.lax.all_gather((*units, weights), AXIS, tiled=True)
  columns, there = jnp.concatenate(everywhere[:2]), jnp.tile(everywhere[2] > 0, 2)
  count, size = len(weights), len(everywhere[2])
  own = jax.lax.axis_index(AXIS) * count + jnp.arange(count)
  losses, nearest = [], []
  for view, z in enumerate(units):
    self, other = own + view * size, own + (1 - view) * size
    logits = jnp.dot(z, columns.T, precision="highest") / tau
    excluded = ~there[None, :] | (jnp.arange(2 * size)[None, :] == self[:, None])
    # Of a padding row the pair itself is kept, so that no sum is empty.
    excluded &= jnp.arange(2 * size)[None, :] != other[:, None]
    logits = jnp.where(excluded, -jnp.inf, logits)
    losses.append(optax.softmax_cross_entropy_with_integer_labels(logits, other))
    nearest.append(jnp.argmax(logits, axis=1) == other)
  return sum(losses) / 2, nearest[0]


def separability(delta: jax.Array, labels: jax.Array, valid: jax.Array, classes: int) -> jax.Array:
  """Class-wise separability discriminant of the global batch, inside `shard_map`.

  `mean_{i != j} (s_i + s_j) / ||c_i - c_j||_2` over pairs of classes with images in the batch; c_i
  is the centroid of the perturbations of class i, s_i their mean distance from it. Low: separable.

  Args:
    delta: of the local rows, `[rows, H, W, C]`.
    labels: `[rows]`.
    valid: bool `[rows]`; False for padding.
    classes: number of them.

  Returns:
    A scalar, the same on all devices.
  """
  flat = delta.reshape(len(delta), -1)
  member = jax.nn.one_hot(labels, classes) * valid[:, None]
  sums, counts = jax.lax.psum(
    (jnp.dot(member.T, flat, precision="highest"), jnp.sum(member, axis=0)), AXIS
  )
  centroids = sums / jnp.maximum(counts, 1)[:, None]
  squared = _squares(flat - centroids[labels])
  away = squared > _CLOSE**2  # the square root has no gradient at 0
  distances = jnp.where(away, jnp.sqrt(jnp.where(away, squared, 1.0)), 0.0)
  totals = jax.lax.psum(jnp.dot(distances, member, precision="highest"), AXIS)
  spread = totals / jnp.maximum(counts, 1)
  # What all have in common cancels in differences: without it they come from inner products.
  centred = centroids - jnp.mean(centroids, axis=0, keepdims=True)
  products = jnp.dot(centred, centred.T, precision="highest")
  apart = _squares(centred)[:, None] + _squares(centred)[None, :] - 2 * products
  there = counts > 0
  pairs = there[:, None] & there[None, :] & (apart > _CLOSE**2) & ~jnp.eye(classes, dtype=bool)
  ratios = (spread[:, None] + spread[None, :]) / jnp.sqrt(jnp.where(pairs, apart, 1.0))
  return jnp.sum(jnp.where(pairs, ratios, 0.0)) / jnp.maximum(jnp.sum(pairs), 1)


def _source_step(
  module: nn.Module, optimiser: optax.GradientTransformation, config: Config
) -> loops.Step:
  """One SGD step on L_con; the sums count images whose second view is nearest to the first."""
  inputs = deltas.source_inputs(config)

  def local(carry, constants, index):
    state, sums = carry
    rows, batch = constants.batch(index)

    def view(number):
      keys = prng.example_keys(jax.random.fold_in(constants.key, number), batch.ids)
      return _coloured(keys, inputs(batch, constants.delta, rows, keys))

    images = jnp.concatenate([view(0), view(1)])

    def loss_of(params):
      (_, projections), updated = module.apply(
        {"params": params, "batch_stats": state.batch_stats},
        images,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.fold_in(constants.key, index)},
      )
      losses, hits = contrast(jnp.split(projections, 2), jnp.ones(len(rows)), config.method.tau)
      # As in `fit.train_step`: gradients of replicated parameters arrive summed.
      return jax.lax.pmean(jnp.mean(losses), AXIS), (hits, updated.get("batch_stats", {}))

    (loss, (hits, batch_stats)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
    state = fit.State(optax.apply_updates(state.params, updates), batch_stats, opt_state)
    count = len(rows) * jax.lax.axis_size(AXIS)
    return state, sums.add(index, loss, jax.lax.psum(jnp.sum(hits), AXIS), count)

  spec = fit.pass_spec((jax.P(AXIS), jax.P(AXIS)))
  return jax.shard_map(local, in_specs=(jax.P(), spec, jax.P()), out_specs=jax.P())


def _delta_step(module: nn.Module, method: Method, classes: int) -> loops.Step:
  """One sign step on `L_con + zeta L_csd`; L_con is averaged over `method.draws` pairs of views."""
  on_device = loops.loops_on_device()

  def loss(constants, batch, images, weights, index):
    total = jnp.maximum(jax.lax.psum(jnp.sum(weights), AXIS), 1e-12)

    def source(images):
      return module.apply(constants.source.variables, images, train=False)

    def projected(delta, number):
      key = jax.random.fold_in(constants.data.key, number)
      keys = prng.example_keys(key, batch.ids)
      view = _coloured(keys, augment(method.augment, keys, images + delta))
      return deltas.in_parts(source, view, method, on_device)[1]

    def loss_of(delta, beside):
      value, hits = 0.0, 0.0
      for draw in range(method.draws):
        first = 2 * (index * method.draws + draw)
        views = projected(delta, first), projected(delta, first + 1)
        losses, nearest = contrast(views, weights, method.tau)
        value += jax.lax.psum(jnp.sum(weights * losses), AXIS) / total / method.draws
        hits += nearest / method.draws
      if method.zeta:
        value += method.zeta * separability(delta, batch.labels, weights > 0, classes)
      return value, (hits, beside)

    return loss_of

  return deltas.sign_step(method, loss)


def _coloured(keys: jax.Array, images: jax.Array) -> jax.Array:
  """SimCLR's colour distortion without hue, each image by its own key; values stay in [0, 1]."""
  draw = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, _COLOUR), (5,)))
  jittered, gray, *factors = draw(keys).T[:, :, None, None, None]
  brightness, contrast, saturation = (
    jnp.where(jittered < _JITTERED, 1 + _STRENGTH * (2 * factor - 1), 1.0) for factor in factors
  )

  def mixed(x, other, share):
    return jnp.clip(share * x + (1 - share) * other, 0.0, 1.0)

  images = mixed(images, 0.0, brightness)
  images = mixed(images, jnp.mean(grayscale(images), axis=(1, 2), keepdims=True), contrast)
  images = mixed(images, grayscale(images), saturation)
  return jnp.where(gray < _GRAY, grayscale(images), images)


def _squares(x: jax.Array) -> jax.Array:
  """Squared length of every row."""
  return jnp.sum(x**2, axis=1)
