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
block after it, so that nothing but training images is used. `batch_size` is the block.
"""

import dataclasses
import functools
import math
from typing import Any

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
from miue_jax.methods import sign_step
from miue_jax.methods.delta import Delta, DeltaPass
from miue_jax.methods.method import Generated, Observer, Phase, Sizes, generated
from miue_jax.methods.settings import SignSteps
from miue_jax.settings.errors import UserError
from miue_jax.settings.schema import Count, Positive, settings
from miue_jax.train import lanes, loop, step

TIME = 64.0  # t, at a learning rate of 1 on half the mean over images and classes
DEPTH = 5  # hidden layers of the paper's fully-connected network
_BIAS = 0.1  # variance of the biases; that of the weights, 2 / fan-in, keeps the size of signals


@settings
class Settings(SignSteps):
  """Settings of NTGA; the defaults are the paper's for CIFAR-10."""

  name: str = "ntga"
  step_size: Positive = 0.8 / 255  # in [0, 1] pixel units
  checkpoint_every: Count = 5  # blocks between checkpoints


@flax.struct.dataclass
class State:
  """The state of a generation; a checkpoint holds one.

  Attributes:
    delta: The perturbation.
    sums: Running sums of the current block.
    history: Mean objective of each block.
    seconds: Time spent, over all sittings.
  """

  delta: Delta
  sums: step.Sums
  history: jax.Array
  seconds: jax.Array


@dataclasses.dataclass(frozen=True)
class Kernel:
  """The method: sign steps against a kernel, block by block."""

  settings: type[Settings]

  def phases(self, settings: Any, sizes: Sizes, seed: int) -> tuple[Phase, ...]:
    """Returns the one kind of step; see `method.Method`."""
    layout, blocks = _blocks(settings, sizes.train, seed)

    def arguments(images, labels):
      delta = Delta.zeros(settings, len(images), sizes.classes, sizes.image)
      data = step.example_pass(layout, images, labels, settings.batch_size, None)
      perturbed = jnp.ones(len(images), bool)
      constants = DeltaPass(None, data, perturbed, jnp.float32(settings.step_size))
      return (delta, step.Sums.empty(), None), constants

    specs = (jax.P(AXIS), jax.P(), jax.P()), DeltaPass.spec(settings)
    kernel_step = _step(settings, sizes.classes, blocks)
    total = blocks * settings.steps
    return (
      Phase(
        "delta",
        settings.batch_size,
        total,
        1,
        settings.steps,
        len(layout.ids),
        kernel_step,
        arguments,
        specs,
      ),
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
    """Moves the perturbations of every block; see `method.Method`."""
    del observer
    train = dataset.train
    layout, blocks = _blocks(settings, len(train), seed)
    table = layout.place(train)
    chosen = deltas.chosen_images(train.labels, settings, seed)
    perturbed = deltas.perturbed_rows(chosen, layout)
    key = prng.stream(seed, "delta")
    order = step.shuffler(settings.batch_size)(key, table.ids)
    size = sharding.replicate(np.float32(settings.step_size))
    constants = DeltaPass(None, step.Pass(table, None, order, key), perturbed, size)
    advance = loops.repeated(_step(settings, dataset.num_classes, blocks))

    def segment(block: int) -> loop.Segment:
      before = (block - 1) * settings.steps

      def run(state, first, stop, tick):
        carry = (state.delta, state.sums, None)
        (delta, sums, _), reached = advance(
          carry,
          constants,
          before + first,
          before + stop,
          tick=lambda index: tick(index - before),
        )
        return state.replace(delta=delta, sums=sums), reached - before

      def finish(state):
        objective, _ = state.sums.read(f"delta, block {block}")
        history = loop.recorded(state.history, block - 1, objective)
        state = state.replace(history=history, sums=step.Sums.zero())
        return state, {"objective": objective}

      save = block % settings.checkpoint_every == 0 or block == blocks
      return loop.Segment(block, settings.steps, run, finish, save)

    state = State(
      deltas.first_delta(dataset, settings, layout, seed),
      step.Sums.zero(),
      loop.no_history(blocks, fill=0),
      sharding.replicate(np.float32(0)),
    )
    segments = [segment(block) for block in range(1, blocks + 1)]
    state = loop.drive(state, segments, name="generate", checkpoints=checkpoints, progress=progress)
    quantised = deltas.quantised(layout, table, state.delta, perturbed, settings)
    return generated(quantised, state.seconds, chosen, {"objective": sharding.fetch(state.history)})


def _blocks(settings: Settings, count: int, seed: int) -> tuple[lanes.Layout, int]:
  """Returns the layout of the training images, and the number of blocks.

  Raises:
    UserError: There is only one block.
  """
  layout = deltas.lay_out(count, settings, seed)
  blocks = layout.steps(settings.batch_size, partial=True)
  if blocks < 2:
    raise UserError(
      "Method ntga judges each block of images by another one: set method.batch_size to less than "
      f"the {count} training images."
    )
  return layout, blocks


def _step(settings: Settings, classes: int, blocks: int) -> loops.Step:
  """Returns the sign step on a block."""

  def targets(labels):
    return jax.nn.one_hot(labels, classes) - 1 / classes  # an untrained network says 0 on average

  def loss(constants, batch, images, weights, index, delta):
    del delta
    _, other = constants.data.batch((index // settings.steps + 1) % blocks)
    unseen = (other.images.astype(jnp.float32) / 255).reshape(len(other.ids), -1)
    judged, there = other.ids >= 0, batch.ids >= 0
    count = jax.lax.psum(jnp.sum(there), AXIS)

    def loss_of(variable, state):
      poisoned = images + jnp.where(weights[:, None, None, None] > 0, variable, 0.0)
      # Every device needs the whole block: its images are the features of a kernel.
      block, wanted, real = jax.lax.all_gather(
        (poisoned.reshape(len(images), -1), targets(batch.labels), there), AXIS, tiled=True
      )
      gram = jnp.where(real[:, None] & real[None, :], kernel(block, block), 0.0)
      product = functools.partial(jnp.dot, precision="highest")
      answers = product(learned(gram, TIME / (count * classes)), wanted * real[:, None])
      errors = (product(kernel(unseen, block), answers) - targets(other.labels)) ** 2
      total = jax.lax.psum(jnp.sum(judged * jnp.mean(errors, axis=1)), AXIS)
      error = total / jax.lax.psum(jnp.sum(judged), AXIS)
      return -error, (jnp.zeros(len(images)), state)

    return loss_of

  return sign_step.sign_step(settings, loss)


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
