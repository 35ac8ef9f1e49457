"""UEraser: learn from the augmentation, of several, that raises the loss most.

Qin et al., "Learning the Unlearnable: Adversarial Augmentations Suppress Unlearnable Example
Attacks", 2023, arXiv 2303.15127. An augmentation is plasma brightness, plasma contrast and a
channel shuffle, each with probability 1/2, then TrivialAugment. For the first quarter of the epochs
(50 of 200) each image gets five and is learned in the one of largest loss, afterwards it gets one.
Here the losses that are compared come from the model in inference mode.
"""

import jax
import jax.numpy as jnp

from miue_jax.defences.defence import Defence
from miue_jax.transforms import hooks as hooks_lib
from miue_jax.transforms.hooks import Targets
from miue_jax.transforms.trivialaugment import trivial_augment

DRAWS = 5
SHARE = 0.25  # of the epochs, with several draws
ROUGHNESS = (0.3, 0.7)
INTENSITY = (0.5, 1.0)


def ueraser() -> Defence:
  """The defence."""
  once = hooks_lib.Hooks(augment=augment)
  return Defence("ueraser", hooks=hooks_lib.Hooks(adversary=hardest, share=SHARE, then=once))


def hardest(keys: jax.Array, images: jax.Array, loss: hooks_lib.Loss) -> jax.Array:
  """Of several augmentations of each image the one with the largest loss."""
  numbered = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (None, 0))
  drawn = jax.vmap(transformed, (0, None))(numbered(keys, jnp.arange(DRAWS)), images)
  hardest_draw = jnp.argmax(jax.vmap(loss)(drawn), axis=0)
  return drawn[hardest_draw, jnp.arange(len(images))]


def augment(keys: jax.Array, images: jax.Array, targets: Targets) -> tuple[jax.Array, Targets]:
  """One augmentation of each image."""
  return transformed(keys, images), targets


def transformed(keys: jax.Array, images: jax.Array) -> jax.Array:
  """Plasma brightness, plasma contrast, channel shuffle, TrivialAugment."""
  last = jax.vmap(lambda key: jax.random.fold_in(key, DRAWS))(keys)
  # TrivialAugment has no use for labels.
  return trivial_augment(last, jax.vmap(_toned)(keys, images), None)[0]


def _toned(key: jax.Array, image: jax.Array) -> jax.Array:
  """The transformations of one image before TrivialAugment."""
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
  """A cloud in [0, 1], `[height, width, 1]`: the diamond-square algorithm.

  Every level halves the distance of points, sets each new one to the mean of its neighbours plus
  uniform noise in (-s, s), and multiplies s by a roughness ~ U(0.3, 0.7).
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
  """From `[n, n]` to `[2n - 1, 2n - 1]` points."""
  points = jax.lax.pad(grid, jnp.zeros((), grid.dtype), [(0, 0, 1)] * 2)
  odd = jnp.arange(len(points)) % 2 == 1
  noise = scale * _noise(key, level, points.shape)
  centres = odd[:, None] & odd[None, :]
  corners = [(i, j) for i in (0, 2) for j in (0, 2)]
  points += jnp.where(centres, _neighbours(points, corners) / 4 + noise, 0.0)
  edges = odd[:, None] ^ odd[None, :]
  sides = [(0, 1), (1, 0), (1, 2), (2, 1)]
  count = _neighbours(jnp.ones_like(points), sides)  # three of them at the border
  return points + jnp.where(edges, _neighbours(points, sides) / count + noise, 0.0)


def _neighbours(points: jax.Array, offsets: list[tuple[int, int]]) -> jax.Array:
  """Sum over neighbours at these offsets of a 3x3 window, nothing outside."""
  height, width = points.shape
  wide = jnp.pad(points, 1)
  return sum(wide[i : i + height, j : j + width] for i, j in offsets)


def _noise(key: jax.Array, level: int, shape: tuple[int, ...]) -> jax.Array:
  return jax.random.uniform(jax.random.fold_in(key, level), shape, minval=-1.0, maxval=1.0)
