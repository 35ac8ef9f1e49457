"""TUE: transferable unlearnable examples (Ren et al., ICLR 2023).

  theta <- argmin  L_con(T(x + delta), T'(x + delta))                      source model, one pass
  delta <- argmin  L_con(T(x + delta), T'(x + delta)) + zeta L_csd(delta, y)    sign steps, one pass
  repeat for every epoch;   |delta| <= eps

L_con is the contrastive loss of SimCLR between two random views of each image. It needs no labels,
so that the poison also spoils training without labels. L_csd is small if the perturbations of a
class are close to each other and far from those of other classes; such a poison spoils supervised
training. T is `augment`, then random brightness, contrast, saturation and gray.

The paper's SimCLR projects features by two layers onto 128 outputs and draws random resized crops
and hues. Here the last layer of the source model is the projection, crops keep their size, and hue
does not change. L_csd is taken over the batch of a delta step. The training of the source model
(`source`) differs from the paper's.
"""

import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from miue_jax import models, objectives
from miue_jax.machine import loops, prng
from miue_jax.machine.meshes import AXIS
from miue_jax.methods import sign_step, source
from miue_jax.methods.shared_settings import AlternatingSettings
from miue_jax.settings.config import Augmentation, Sgd
from miue_jax.settings.schema import Count, NonNegative, Positive, require, settings
from miue_jax.train import step
from miue_jax.transforms import augment, grayscale

OUTPUTS = 128  # size of the projection, as in SimCLR
_COLOUR = zlib.crc32(b"colour")  # name of its random stream
_STRENGTH = 0.4  # s of SimCLR's colour distortion on CIFAR-10: factors are in [1 - s, 1 + s]
_JITTERED, _GRAY = 0.8, 0.2  # probabilities of the distortion and of gray
_CLOSE = 1e-6  # a pair of centroids that are closer does not count


@settings
class Settings(AlternatingSettings):
  """Settings of TUE, with the values of the paper for CIFAR-10 except for the source model."""

  name: str = "tue"
  epochs: Count = 40
  steps: Count = 20
  step_size_start: Positive = 0.8 / 255
  step_size_end: Positive = 0.8 / 255
  augment: Augmentation = "crop_flip"
  augment_poisoned: bool = True
  tau: Positive = 0.5  # temperature of the contrast; SimCLR's on CIFAR-10
  separability_weight: NonNegative = 0.1  # of the class-wise separability term
  source: Sgd = Sgd(batch_size=512, weight_decay=5e-4, augment="crop_flip")

  def __post_init__(self):
    """Checks that delta belongs to images and that views are made of poisoned images."""
    super().__post_init__()
    require(not self.class_wise, "class_wise", self.class_wise, "False for tue")
    require(self.augment_poisoned, "augment_poisoned", self.augment_poisoned, "True for tue")


def contrast(
  views: tuple[jax.Array, jax.Array], weights: jax.Array, tau: float
) -> tuple[jax.Array, jax.Array]:
  """Returns SimCLR's loss of the local rows against the global batch, inside `shard_map`.

  The loss of a view z, with z' the other view of the same image, is `-log( exp(cos(z, z') / tau) /
  sum_{k != z} exp(cos(z, k) / tau) )`, with k over both views of all images (Chen et al., ICML
  2020).

  Args:
    views: Two arrays `[rows, outputs]`.
    weights: Weights of the rows; 0 for padding, which k leaves out.
    tau: Temperature.

  Returns:
    One loss per row, the mean of its views (nats), and a mask of the rows whose second view is
    nearest to the first.
  """
  units = [objectives.unit(z) for z in views]
  everywhere = jax.lax.all_gather((*units, weights), AXIS, tiled=True)
  columns, there = jnp.concatenate(everywhere[:2]), jnp.tile(everywhere[2] > 0, 2)
  count, size = len(weights), len(everywhere[2])
  own = jax.lax.axis_index(AXIS) * count + jnp.arange(count)
  losses, nearest = [], []
  for view, z in enumerate(units):
    self, other = own + view * size, own + (1 - view) * size
    logits = jnp.dot(z, columns.T, precision="highest") / tau
    excluded = ~there[None, :] | (jnp.arange(2 * size)[None, :] == self[:, None])
    # The pair itself is kept, so that the sum of a padding row is not empty.
    excluded &= jnp.arange(2 * size)[None, :] != other[:, None]
    logits = jnp.where(excluded, -jnp.inf, logits)
    losses.append(optax.softmax_cross_entropy_with_integer_labels(logits, other))
    nearest.append(jnp.argmax(logits, axis=1) == other)
  return (losses[0] + losses[1]) / 2, nearest[0]


def separability(delta: jax.Array, labels: jax.Array, valid: jax.Array, classes: int) -> jax.Array:
  """Returns the class-wise separability discriminant of the global batch, inside `shard_map`.

  It is `mean_{i != j} (s_i + s_j) / ||c_i - c_j||_2` over pairs of classes with images in the
  batch; c_i is the centroid of the perturbations of class i, s_i their mean distance from it. It is
  low if the classes are separable.

  Args:
    delta: Perturbations of the local rows, `[rows, H, W, C]`.
    labels: Integer labels `[rows]`.
    valid: Mask of the rows, bool `[rows]`; False for padding.
    classes: Number of classes.

  Returns:
    A scalar, the same on all devices.
  """
  flat = delta.reshape(len(delta), -1)
  member = jax.nn.one_hot(labels, classes) * valid[:, None]
  sums, counts = jax.lax.psum(
    (jnp.dot(member.T, flat, precision="highest"), jnp.sum(member, axis=0)), AXIS
  )
  centroids = sums / jnp.maximum(counts, 1)[:, None]
  distances = objectives.safe_sqrt(_squares(flat - centroids[labels]))
  totals = jax.lax.psum(jnp.dot(distances, member, precision="highest"), AXIS)
  spread = totals / jnp.maximum(counts, 1)
  # Distances come from inner products, which are more accurate without the common mean.
  centred = centroids - jnp.mean(centroids, axis=0, keepdims=True)
  products = jnp.dot(centred, centred.T, precision="highest")
  apart = _squares(centred)[:, None] + _squares(centred)[None, :] - 2 * products
  there = counts > 0
  pairs = there[:, None] & there[None, :] & (apart > _CLOSE**2) & ~jnp.eye(classes, dtype=bool)
  ratios = (spread[:, None] + spread[None, :]) / jnp.sqrt(jnp.where(pairs, apart, 1.0))
  return jnp.sum(jnp.where(pairs, ratios, 0.0)) / jnp.maximum(jnp.sum(pairs), 1)


def source_step(
  module: nn.Module, optimiser: optax.GradientTransformation, settings: Settings
) -> loops.Step:
  """Returns an SGD step on L_con; the sums count images whose views are nearest to each other."""
  inputs = source.inputs(settings)

  def local(carry, constants, index):
    state, sums = carry
    rows, batch = constants.batch(index)

    def view(number):
      keys = prng.example_keys(jax.random.fold_in(constants.key, number), batch.ids)
      return _coloured(keys, inputs(batch, constants.delta, rows, keys))

    def criterion(outputs):
      first, second = jnp.split(outputs[1], 2)
      return contrast((first, second), jnp.ones(len(rows)), settings.tau)

    images = jnp.concatenate([view(0), view(1)])
    return step.update(state, sums, module, optimiser, images, criterion, index, constants.key)

  spec = step.pass_spec(source.spec(settings))
  return jax.shard_map(local, in_specs=(jax.P(), spec, jax.P()), out_specs=jax.P())


def delta_step(module: nn.Module, settings: Settings, classes: int) -> loops.Step:
  """Returns a sign step on `L_con + zeta L_csd`.

  L_con is averaged over `settings.draws` pairs of views.
  """

  def loss(constants, batch, images, weights, index, delta):
    total = jnp.maximum(jax.lax.psum(jnp.sum(weights), AXIS), 1e-12)

    def network(images):
      return models.infer(module, constants.source.variables, images)

    def projected(variable, number):
      key = jax.random.fold_in(constants.data.key, number)
      keys = prng.example_keys(key, batch.ids)
      view = _coloured(keys, augment(settings.augment, keys, delta.added(images, variable)))
      return sign_step.in_parts(network, view, settings)[1]

    def loss_of(variable, state):
      value, hits = 0.0, 0.0
      for draw in range(settings.draws):
        first = 2 * (index * settings.draws + draw)
        views = projected(variable, first), projected(variable, first + 1)
        losses, nearest = contrast(views, weights, settings.tau)
        value += jax.lax.psum(jnp.sum(weights * losses), AXIS) / total / settings.draws
        hits += nearest / settings.draws
      if settings.separability_weight:
        spread = separability(variable, batch.labels, weights > 0, classes)
        value += settings.separability_weight * spread
      return value, (hits, state)

    return loss_of

  return sign_step.sign_step(settings, loss)


def _coloured(keys: jax.Array, images: jax.Array) -> jax.Array:
  """Returns images in [0, 1] after SimCLR's colour distortion without hue, by one key per image."""
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
  """Returns the squared length of every row."""
  return jnp.sum(x**2, axis=1)
