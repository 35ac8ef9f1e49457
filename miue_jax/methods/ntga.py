"""NTGA: neural tangent generalisation attacks (Yuan and Wu, ICML 2021).

  for every block (X, Y) of training images, with clean images (X', Y') of another block:
    f(x'; t) = K(x', X + delta) K^-1 (I - exp(-K t)) Y,  K = K(X + delta, X + delta)
    delta <- argmax  mean (f(X'; t) - Y')^2,  |delta| <= eps                       sign steps

f is the mean prediction, for unseen images, of an infinitely wide network that gradient descent on
the mean squared error trains on the poisoned block up to time t. K is its neural tangent kernel, in
closed form, so that no source model is trained and one pass suffices.

K is the kernel of the paper's fully-connected network, with ReLU, whose kernels have elementary
formulas (Jacot et al., NeurIPS 2018; Cho and Saul, NeurIPS 2009). The kernel of the paper's
convolutional network would multiply the cost by the square of the number of pixels. X' are
the images of the next block, so only training images are used. `batch_size` is the size of a block.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from miue_jax.machine import loops
from miue_jax.machine.meshes import AXIS
from miue_jax.methods import delta as deltas
from miue_jax.methods import sign_step
from miue_jax.methods.method import Sizes
from miue_jax.methods.shared_settings import SignSteps
from miue_jax.methods.stepwise import Procedure, Reading, Stepwise, Turn, delta_stage, due
from miue_jax.settings.errors import UserError
from miue_jax.settings.schema import Count, Positive, settings

# t, at a learning rate of 1 on half the squared error, averaged over images and classes
TIME = 64.0
DEPTH = 5  # hidden layers of the paper's fully-connected network
_BIAS = 0.1  # variance of the biases; the weights have variance 2 / fan-in


@settings
class Settings(SignSteps):
  """Settings of NTGA, with the values of the paper for CIFAR-10."""

  name: str = "ntga"
  step_size: Positive = 0.8 / 255  # in [0, 1] pixel units
  checkpoint_every: Count = 5  # blocks between checkpoints
  # Constants, which are fields of methods with a source model.
  augment = "none"
  augment_poisoned = class_wise = False
  stop_error = 0.0


@dataclasses.dataclass(frozen=True)
class Kernel(Stepwise):
  """A method that moves delta against a neural tangent kernel, one block of images at a time."""

  settings: type[Settings]

  def procedure(self, settings: Any, sizes: Sizes, seed: int) -> Procedure:
    """Returns the sign steps of all blocks; see `stepwise.Stepwise`.

    Raises:
      UserError: There is only one block.
    """
    layout = deltas.lay_out(sizes.train, settings, seed)
    blocks = layout.steps(settings.batch_size, partial=True)
    if blocks < 2:
      raise UserError(
        "Method ntga judges each block of images by another one: set method.batch_size to less "
        f"than the {sizes.train} training images."
      )
    sign_steps = _step(settings, sizes.classes, blocks)
    stage = delta_stage(settings, settings.steps, settings.steps / blocks, sign_steps)

    def turn(block: int) -> Turn:
      return Turn(
        stage,
        block,
        ("delta",),
        (Reading("sums", f"delta, block {block}", ("objective",)),),
        step_size=settings.step_size,
        first=(block - 1) * settings.steps,
        save=due(settings, block, blocks),
      )

    turns = tuple(turn(block) for block in range(1, blocks + 1))
    return Procedure(
      layout,
      (stage,),
      turns,
      ("objective",),
      lambda key, delta: {"source": None, "auxiliary": None},
    )


def _step(settings: Settings, classes: int, blocks: int) -> loops.Step:
  """Returns the sign step on one block."""

  def targets(labels):
    # The mean is 0, which an untrained network predicts.
    return jax.nn.one_hot(labels, classes) - 1 / classes

  def loss(constants, batch, images, weights, index, delta):
    del delta
    _, other = constants.data.batch((index // settings.steps + 1) % blocks)
    unseen = (other.images.astype(jnp.float32) / 255).reshape(len(other.ids), -1)
    judged, there = other.ids >= 0, batch.ids >= 0
    count = jax.lax.psum(jnp.sum(there), AXIS)

    def loss_of(variable, state):
      poisoned = images + jnp.where(weights[:, None, None, None] > 0, variable, 0.0)
      # Every device needs the whole block, since the kernel compares all of its images.
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
  """Returns the neural tangent kernel of wide ReLU layers, `[a, d]` and `[b, d]` -> `[a, b]`.

  With S the covariance of the outputs of a layer, every further layer is `S <- 2 E[relu(u) relu(v)]
  + bias`, `K <- S + 2 E[relu'(u) relu'(v)] K`, (u, v) ~ N(0, S).
  """

  def outputs(product):
    return 2 * product / x.shape[1] + _BIAS

  # For an image with itself E[2 relu(u)^2] = S, so that only the biases make it grow.
  own = [outputs(jnp.sum(z**2, axis=1)) for z in (x, y)]
  covariance = tangent = outputs(jnp.dot(x, y.T, precision="highest"))
  for _ in range(DEPTH):
    length = jnp.sqrt(own[0][:, None] * own[1][None, :])
    # The arc cosine has no finite gradient at 1, which is the cosine of equal images.
    cosine = jnp.clip(covariance / length, -1 + 1e-6, 1 - 1e-6)
    angle = jnp.arccos(cosine)
    both = (math.pi - angle) / math.pi
    covariance = length * (jnp.sqrt(1 - cosine**2) / math.pi + both * cosine) + _BIAS
    tangent = covariance + both * tangent
    own = [size + _BIAS for size in own]
  return tangent


@jax.custom_vjp
def learned(gram: jax.Array, time: jax.Array | float) -> jax.Array:
  """Returns `K^-1 (I - exp(-K t))` of a symmetric positive semi-definite matrix K, `[n, n]`.

  Its limit where K is singular is t. The gradient is that of Daleckii and Krein, which is finite
  for equal eigenvalues; the gradient of an eigendecomposition is not.
  """
  return _learned(gram, time)[0]


def _learned(gram, time):
  values, vectors = jnp.linalg.eigh(gram)
  grown = jnp.maximum(values, 0) * time
  scaled = vectors * (time * _decay(grown))[None, :]
  return jnp.dot(scaled, vectors.T, precision="highest"), (grown, vectors, time)


def _decay(z: jax.Array) -> jax.Array:
  """Returns `(1 - exp(-z)) / z`, and 1 at 0."""
  small = z < 1e-4
  return jnp.where(small, 1 - z / 2, -jnp.expm1(-z) / jnp.where(small, 1.0, z))


def _slope(z: jax.Array) -> jax.Array:
  """Returns the derivative of `_decay`."""
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
