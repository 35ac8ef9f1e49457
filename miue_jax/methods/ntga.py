"""NTGA: neural tangent generalisation attacks (Yuan and Wu, ICML 2021).

  for every block (X, Y) of training images, with clean images (X', Y') of another block:
    f(x'; t) = K(x', X + delta) K^-1 (I - exp(-K t)) Y,  K = K(X + delta, X + delta)
    delta <- argmax  mean (f(X'; t) - Y')^2,  |delta| <= eps                       sign steps

f is what an infinitely wide network, trained on the poisoned block by gradient descent on the mean
squared error up to time t, says on average about images that it has not seen; K is its neural
tangent kernel, in closed form, so that no source model is trained and one pass suffices.

K is that of the paper's fully-connected network in depth, with ReLU, for which all kernels are
elementary (Jacot et al., NeurIPS 2018; Cho and Saul, NeurIPS 2009); the kernel of the paper's
convolutional network costs pixels squared as much. Images of a block are judged by those of the
block after it, so that nothing but training images is used. `method.batch_size` is the block.
"""

import functools
import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

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

TIME = 64.0  # t, at a learning rate of 1 on half the mean over images and classes
DEPTH = 5  # hidden layers of the paper's fully-connected network
_BIAS = 0.1  # variance of the biases; that of the weights, 2 / fan-in, keeps the size of signals


@flax.struct.dataclass
class _Loop:
  """What a checkpoint holds; `history` has the mean objective of each block."""

  delta: jax.Array
  sums: fit.Sums
  history: jax.Array
  seconds: jax.Array


def generate(
  dataset: Dataset, config: Config, checkpoints: Checkpoints, progress: Reporter
) -> Generated:
  """Makes an NTGA poison, block by block; arguments and errors as `alternating.generate`.

  `method.checkpoint_every` counts blocks.
  """
  method, train = config.method, dataset.train
  if method.class_wise or method.augment != "none":
    raise UserError(
      f"Method {method.name} perturbs single images as they are: set method.class_wise=False and "
      'method.augment="none".'
    )
  layout = deltas.lay_out(train, config)
  blocks = layout.steps(method.batch_size, partial=True)
  if blocks < 2:
    raise UserError(
      f"Method {method.name} judges each block of images by another one: set method.batch_size to "
      f"less than the {len(train)} training images."
    )
  table = layout.place(train)
  chosen = deltas.chosen_images(train.labels, method, config.seed)
  perturbed = deltas.perturbed_rows(chosen, layout)
  key = prng.stream(config.seed, "delta")
  data = fit.Pass(table, None, fit.shuffler(method.batch_size)(key, table.ids), key)
  sizes = sharding.replicate(tuple(map(np.float32, (method.step_size_start, method.epsilon))))
  constants = deltas.DeltaPass(None, data, perturbed, *sizes)
  run = loops.repeated(_step(method, dataset.num_classes, blocks))

  loop = _Loop(
    deltas.first_delta(dataset, method, layout, config.seed),
    fit.Sums.zero(),
    sharding.replicate(np.zeros(blocks, np.float32)),
    sharding.replicate(np.float32(0)),
  )
  position, loop = checkpoints.restore(loop) or (0, loop)
  report = progress("generate", blocks * method.steps, blocks, position)
  clock = fit.Clock(loop.seconds)
  with signals.stop_on_signal():
    for block in range(position // method.steps, blocks):
      stop = (block + 1) * method.steps
      (delta, sums, _), position = run(
        (loop.delta, loop.sums, None), constants, position, stop, tick=report.tick
      )
      loop = loop.replace(delta=delta, sums=sums, seconds=clock.read())
      if position < stop:
        checkpoints.save(position, loop)
        raise signals.Interrupted(signals.received())
      objective, _ = sums.read(f"delta, block {block + 1}")
      history = np.array(sharding.fetch(loop.history))
      history[block] = objective
      loop = loop.replace(history=sharding.replicate(history), sums=fit.Sums.zero())
      report.report(position, block + 1, {"objective": objective})
      if (block + 1) % method.checkpoint_every == 0 or block + 1 == blocks:
        checkpoints.save(position, loop)
  report.close()

  released = deltas.released(layout, table, loop.delta, perturbed, method)
  return Generated(
    released,
    float(loop.seconds),
    None if chosen.all() else np.flatnonzero(chosen),
    {"objective": sharding.fetch(loop.history).astype(np.float64).round(6).tolist()},
  )


def _step(method: Method, classes: int, blocks: int) -> loops.Step:
  """One sign step on a block, as `delta.sign_step` returns it."""

  def targets(labels):
    return jax.nn.one_hot(labels, classes) - 1 / classes  # an untrained network says 0 on average

  def loss(constants, batch, images, weights, index):
    _, other = constants.data.batch((index // method.steps + 1) % blocks)
    unseen = (other.images.astype(jnp.float32) / 255).reshape(len(other.ids), -1)
    judged, there = other.ids >= 0, batch.ids >= 0
    count = jax.lax.psum(jnp.sum(there), AXIS)

    def loss_of(delta, beside):
      poisoned = images + jnp.where(weights[:, None, None, None] > 0, delta, 0.0)
      # Every device needs the whole block: its images are what a kernel has for features.
      block, wanted, real = jax.lax.all_gather(
        (poisoned.reshape(len(images), -1), targets(batch.labels), there), AXIS, tiled=True
      )
      gram = jnp.where(real[:, None] & real[None, :], kernel(block, block), 0.0)
      product = functools.partial(jnp.dot, precision="highest")
      answers = product(learned(gram, TIME / (count * classes)), wanted * real[:, None])
      errors = (product(kernel(unseen, block), answers) - targets(other.labels)) ** 2
      total = jax.lax.psum(jnp.sum(judged * jnp.mean(errors, axis=1)), AXIS)
      error = total / jax.lax.psum(jnp.sum(judged), AXIS)
      return -error, (jnp.zeros(len(images)), beside)

    return loss_of

  return deltas.sign_step(method, loss)


def kernel(x: jax.Array, y: jax.Array) -> jax.Array:
  """Neural tangent kernel of infinitely wide ReLU layers, `[a, d]` and `[b, d]` -> `[a, b]`.

  With S the covariance of a layer's outputs and c the cosine of two inputs of the next,
  `S <- 2 E[relu(u) relu(v)] + bias`, `K <- S + 2 E[relu'(u) relu'(v)] K`, (u, v) ~ N(0, S).
  """

  def outputs(product):
    return 2 * product / x.shape[1] + _BIAS

  # Of every image with itself, E[2 relu(u)^2] = S: it grows by the biases alone.
  own = [outputs(jnp.sum(z**2, axis=1)) for z in (x, y)]
  covariance = tangent = outputs(jnp.dot(x, y.T, precision="highest"))
  for _ in range(DEPTH):
    length = jnp.sqrt(own[0][:, None] * own[1][None, :])
    # At 1, between equal images, the arc cosine has no gradient.
    cosine = jnp.clip(covariance / length, -1 + 1e-6, 1 - 1e-6)
    angle = jnp.arccos(cosine)
    both = (math.pi - angle) / math.pi
    covariance = length * (jnp.sqrt(1 - cosine**2) / math.pi + both * cosine) + _BIAS
    tangent = covariance + both * tangent
    own = [size + _BIAS for size in own]
  return tangent


@jax.custom_vjp
def learned(gram: jax.Array, time: jax.Array | float) -> jax.Array:
  """`K^-1 (I - exp(-K t))` of a symmetric positive semi-definite `[n, n]`; t where K is singular.

  Its gradient is that of Daleckii and Krein, which stays finite where eigenvalues coincide; that of
  an eigendecomposition does not.
  """
  return _learned(gram, time)[0]


def _learned(gram, time):
  values, vectors = jnp.linalg.eigh(gram)
  grown = jnp.maximum(values, 0) * time
  scaled = vectors * (time * _decay(grown))[None, :]
  return jnp.dot(scaled, vectors.T, precision="highest"), (grown, vectors, time)


def _decay(z: jax.Array) -> jax.Array:
  """`(1 - exp(-z)) / z`, 1 at 0."""
  small = z < 1e-4
  return jnp.where(small, 1 - z / 2, -jnp.expm1(-z) / jnp.where(small, 1.0, z))


def _slope(z: jax.Array) -> jax.Array:
  """Derivative of `_decay`."""
  series = -1 / 2 + z * (1 / 3 - z * (1 / 8 - z * (1 / 30 - z / 144)))
  far = jnp.maximum(z, 0.3)
  return jnp.where(z < 0.3, series, (jnp.exp(-far) * (far + 1) - 1) / far**2)


def _learned_backward(saved, cotangent):
  grown, vectors, time = saved
  gap = grown[:, None] - grown[None, :]
  middle = (grown[:, None] + grown[None, :]) / 2
  near = jnp.abs(gap) < 1e-2 * (1 + middle)
  decay = _decay(grown)
  quotient = (decay[:, None] - decay[None, :]) / jnp.where(near, 1.0, gap)
  divided = time**2 * jnp.where(near, _slope(middle), quotient)
  product = functools.partial(jnp.dot, precision="highest")
  inner = product(product(vectors.T, (cotangent + cotangent.T) / 2), vectors)
  return product(product(vectors, divided * inner), vectors.T), jnp.zeros_like(time)


learned.defvjp(_learned, _learned_backward)
