"""Provides UEraser: victims learn from the augmentation with the largest loss out of several.

Qin et al., "Learning the Unlearnable: Adversarial Augmentations Suppress Unlearnable Example
Attacks", 2023, arXiv 2303.15127. An augmentation is plasma brightness, plasma contrast and a
channel shuffle, each with probability 1/2, then TrivialAugment. In the first quarter of the epochs
(50 of 200) the victim draws five augmentations of each image and learns from the one with the
largest loss; afterwards it draws one. The losses are those of the model in inference mode.
"""

import jax
import jax.numpy as jnp

from miue_jax.defences.defence import Defence
from miue_jax.transforms import Hooks, Loss, Targets, trivialaugment

DRAWS = 5
SHARE = 0.25  # fraction of the epochs with several draws
ROUGHNESS = (0.3, 0.7)
INTENSITY = (0.5, 1.0)


def hardest(keys: jax.Array, images: jax.Array, loss: Loss) -> jax.Array:
  """Draws several augmentations of each image and returns the one with the largest loss."""
  numbered = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (None, 0))
  drawn = jax.vmap(transformed, (0, None))(numbered(keys, jnp.arange(DRAWS)), images)
  hardest_draw = jnp.argmax(jax.vmap(loss)(drawn), axis=0)
  return drawn[hardest_draw, jnp.arange(len(images))]


def augment(keys: jax.Array, images: jax.Array, targets: Targets) -> tuple[jax.Array, Targets]:
  """Draws one augmentation of each image."""
  return transformed(keys, images), targets


UERASER = Defence(
  "ueraser", hooks=Hooks(adversary=hardest, share=SHARE, then=Hooks(augment=augment))
)


def transformed(keys: jax.Array, images: jax.Array) -> jax.Array:
  """Applies plasma brightness, plasma contrast, channel shuffle and TrivialAugment."""
  last = jax.vmap(lambda key: jax.random.fold_in(key, DRAWS))(keys)
  return trivialaugment.transformed(last, jax.vmap(_toned)(keys, images))


def _toned(key: jax.Array, image: jax.Array) -> jax.Array:
  """Applies the transformations before TrivialAugment to one image."""
  coins, bright, contrast, channels, intensity = jax.random.split(key, 5)
  brighten, strengthen, shuffle = jax.random.bernoulli(coins, shape=(3,))
  low, high = INTENSITY
  change = jax.random.uniform(intensity, minval=low, maxval=high)
  lit = jnp.clip(image + change * (2 * plasma(bright, image.shape) - 1), 0, 1)
  image = jnp.where(brighten, lit, image)
  strong = jnp.clip((image - 0.5) * 4 * plasma(contrast, image.shape) + 0.5, 0, 1)
  image = jnp.where(strengthen, strong, image)
  return jnp.where(shuffle, jax.random.permutation(channels, image, axis=2), image)


def plasma(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Draws a cloud in [0, 1], `[height, width, 1]`, by the diamond-square algorithm.

  Every level halves the distance between points, sets each new point to the mean of its neighbours
  plus uniform noise in (-s, s), and multiplies s by a roughness ~ U(0.3, 0.7).
  """
  roughness_key, key = jax.random.split(key)
  low, high = ROUGHNESS
  roughness = jax.random.uniform(roughness_key, minval=low, maxval=high)
  grid, scale, level = _noise(key, 0, (3, 3)), roughness, 1
  while min(grid.shape[0] - shape[0], grid.shape[1] - shape[1]) < 0:
    grid, scale, level = _refined(key, level, grid, scale), scale * roughness, level + 1
  cloud = grid[: shape[0], : shape[1], None]
  low, high = cloud.min(), cloud.max()
  return (cloud - low) / jnp.maximum(high - low, 1e-6)


def _refined(key: jax.Array, level: int, grid: jax.Array, scale: jax.Array) -> jax.Array:
  """Refines a grid of `[n, n]` points to `[2n - 1, 2n - 1]`."""
  points = jax.lax.pad(grid, jnp.zeros((), grid.dtype), [(0, 0, 1)] * 2)
  odd = jnp.arange(len(points)) % 2 == 1
  noise = scale * _noise(key, level, points.shape)
  centres = odd[:, None] & odd[None, :]
  corners = [(i, j) for i in (0, 2) for j in (0, 2)]
  points += jnp.where(centres, _neighbours(points, corners) / 4 + noise, 0.0)
  edges = odd[:, None] ^ odd[None, :]
  sides = [(0, 1), (1, 0), (1, 2), (2, 1)]
  count = _neighbours(jnp.ones_like(points), sides)  # three at the border
  return points + jnp.where(edges, _neighbours(points, sides) / count + noise, 0.0)


def _neighbours(points: jax.Array, offsets: list[tuple[int, int]]) -> jax.Array:
  """Sums the neighbours at these offsets in a 3x3 window; points outside the grid are zero."""
  height, width = points.shape
  wide = jnp.pad(points, 1)
  return jnp.asarray(sum(wide[i : i + height, j : j + width] for i, j in offsets))


def _noise(key: jax.Array, level: int, shape: tuple[int, ...]) -> jax.Array:
  """Draws uniform noise in (-1, 1) for one level."""
  return jax.random.uniform(jax.random.fold_in(key, level), shape, minval=-1.0, maxval=1.0)
