"""What moves poisoned images inside a ball before a model sees them: sign steps, or chance."""

import functools

import jax
import jax.numpy as jnp

from miue_jax import budget
from miue_jax.machine import loops
from miue_jax.settings.config import Method
from miue_jax.transforms import hooks


def pgd(method: Method) -> hooks.Adversary:
  """Sign steps that raise the loss, from a random start (Madry et al., ICLR 2018)."""
  radius = method.inner_epsilon

  def worst(keys, images, loss):
    rising = jax.grad(lambda delta: -jnp.sum(loss(images + delta)))

    def step(delta):
      moved = budget.descend(delta, rising(delta), method.inner_step_size)
      return budget.project(images, moved, radius)

    start = budget.project(images, _uniform(keys, images, radius), radius)
    return images + loops.iterated(step, start, method.inner_steps)

  return worst


def uniform(method: Method) -> hooks.Adversary:
  """Uniform noise, whatever the loss."""
  radius = method.inner_epsilon

  def noisy(keys, images, loss):
    del loss
    return images + budget.project(images, _uniform(keys, images, radius), radius)

  return noisy


def _uniform(keys: jax.Array, images: jax.Array, radius: float) -> jax.Array:
  draw = functools.partial(
    jax.random.uniform, shape=images.shape[1:], minval=-radius, maxval=radius
  )
  return jax.vmap(draw)(keys)
