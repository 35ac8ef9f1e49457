"""Provides adversaries: functions that move images inside a ball before a model sees them."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp

from miue_jax import budget
from miue_jax.machine import loops
from miue_jax.transforms.hooks import Loss, assert_batch


def pgd(
  keys: jax.Array,
  images: jax.Array,
  loss: Loss,
  *,
  radius: float,
  step_size: float,
  steps: int,
  moves: Literal["image", "perturbation"] = "image",
) -> jax.Array:
  """Raises a loss by projected gradient ascent with sign steps from a random start.

  `x_0 = P(x + u)`, `x_{t+1} = P(x_t + step_size sign(grad loss(x_t)))`, where u is uniform in
  `[-radius, radius]` and P projects onto `|x_t - x| <= radius` and `0 <= x_t <= 1` (Madry et al.,
  "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018).

  Args:
    keys: Random keys `[batch]` of the start.
    images: Float images x `[batch, height, width, channel]` in [0, 1].
    loss: Function from images to one loss per row.
    radius: Largest change of a pixel, in [0, 1] pixel units.
    step_size: Change of a pixel in one step, in the same units.
    steps: Number of steps.
    moves: Variable that a step rounds to float32: the image `x_t` (adversarial training), or the
      perturbation `x_t - x` (REM and SEM). The two are equal up to rounding, but the sign of a
      gradient amplifies rounding; each user keeps the one that its published results used.

  Returns:
    Float images of the same shape, within the ball.

  Example:
    >>> import jax
    >>> import miue_jax.transforms as transforms
    >>> images = jax.numpy.full((2, 8, 8, 3), 0.5)
    >>> keys = jax.random.split(jax.random.key(0), 2)
    >>> brightness = lambda x: x.mean(axis=(1, 2, 3))
    >>> attack = dict(radius=8 / 255, step_size=2 / 255, steps=10)
    >>> bright = transforms.pgd(keys, images, brightness, **attack)
    >>> bool(abs(bright - 0.5 - 8 / 255).max() < 1e-6)
    True
  """
  assert_batch(keys, images)
  on_image = moves == "image"

  def image_of(x):
    return x if on_image else images + x

  def project(x):
    if on_image:
      return jnp.clip(jnp.clip(x, images - radius, images + radius), 0.0, 1.0)
    return budget.project(images, x, radius)

  gradient = jax.grad(lambda x: jnp.sum(loss(image_of(x))))

  def step(x):
    return project(x + step_size * jnp.sign(gradient(x)))

  noise = _uniform(keys, images, radius)
  start = project(images + noise if on_image else noise)
  return image_of(loops.iterated(step, start, steps))


def uniform_noise(
  keys: jax.Array, images: jax.Array, loss: Loss | None = None, *, radius: float
) -> jax.Array:
  """Adds uniform noise in `[-radius, radius]` and clips the result to [0, 1].

  Args:
    keys: Random keys `[batch]`.
    images: Float images `[batch, height, width, channel]` in [0, 1].
    loss: Ignored, so that the function can replace another adversary.
    radius: Largest change of a pixel, in [0, 1] pixel units.

  Returns:
    Float images of the same shape.
  """
  del loss
  assert_batch(keys, images)
  return images + budget.project(images, _uniform(keys, images, radius), radius)


def _uniform(keys: jax.Array, images: jax.Array, radius: float) -> jax.Array:
  """Returns noise of the shape of `images`, uniform in `[-radius, radius]`."""
  draw = functools.partial(
    jax.random.uniform, shape=images.shape[1:], minval=-radius, maxval=radius
  )
  return jax.vmap(draw)(keys)
