"""Provides the budget of perturbations: schedules, sign steps, projection and quantisation."""

import math
from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

# Norms that a budget epsilon bounds: every pixel (linf), the root mean square change of an image
# (l2), or nothing (none).
NORMS = ("linf", "l2", "none")

_BLOCK_VALUES = 2**22  # pixel values that are converted to float32 at the same time
_SHRINK = 0.99  # repeated factor on a perturbation that exceeds an L2 budget


def budget(epsilon: float) -> int:
  """Returns the budget in 255ths: `round(255 epsilon)`."""
  return round(255 * epsilon)


def largest_change(epsilon: float, norm: str) -> int:
  """Returns the largest change of one pixel, in 255ths, under a budget in one of `NORMS`."""
  return {"linf": budget(epsilon), "l2": 127, "none": 255}[norm]


def stored_type(epsilon: float, norm: str) -> np.dtype:
  """Returns the type of a quantised perturbation: int8, or int16 if changes can exceed 127."""
  return np.dtype(np.int8 if largest_change(epsilon, norm) <= 127 else np.int16)


def exceeds(delta: np.ndarray, epsilon: float, norm: str) -> np.ndarray:
  """Finds the images whose quantised perturbation exceeds the budget.

  Args:
    delta: Perturbation, integers `[N, H, W, C]` in 255ths.
    epsilon: Budget in [0, 1] pixel units.
    norm: `linf` requires `|delta| <= budget(epsilon)`; `l2` requires
      `||delta||_2 <= 255 epsilon sqrt(H W C)` and `|delta| <= 127`; `none` allows every delta.

  Returns:
    bool `[N]`.
  """
  flat = delta.reshape(len(delta), -1)
  limit = largest_change(epsilon, norm)
  over = (flat.max(axis=1) > limit) | (flat.min(axis=1) < -limit)
  if norm == "l2":
    # This is exact: integers are added, and their sum is compared with one float.
    over |= np.square(flat, dtype=np.int32).sum(axis=1) > (255 * epsilon) ** 2 * flat.shape[1]
  return over


def step_size(epoch: int, epochs: int, start: float, end: float) -> float:
  """Returns the step size of `epoch` in `1..epochs`: `(E - e + 1) / E * (start - end) + end`.

  It starts at `start` and moves linearly towards `end`. This is the schedule of the authors.
  """
  return (epochs - epoch + 1) / epochs * (start - end) + end


def project(images: jax.Array, delta: jax.Array, epsilon: jax.Array | float) -> jax.Array:
  """Projects onto `|delta| <= epsilon` and `0 <= images + delta <= 1`, all `[..., H, W, C]`."""
  chex.assert_equal_shape([images, delta])
  delta = jnp.clip(delta, -epsilon, epsilon)
  return jnp.clip(images + delta, 0.0, 1.0) - images


def descend(delta: jax.Array, gradient: jax.Array, size: jax.Array | float) -> jax.Array:
  """Takes one sign step against the gradient, without projection."""
  chex.assert_equal_shape([delta, gradient])
  return delta - size * jnp.sign(gradient)


def resolution(radius: float) -> int:
  """Returns the number of parts of a 255th in which int16 can store perturbations up to `radius`.

  It is a power of two, so that whole 255ths are exact: 2048 for 8/255. Rounding by half a part is
  far smaller than a sign step, and int16 takes half the memory of float32.
  """
  return 2 ** math.floor(math.log2(np.iinfo(np.int16).max / (255 * radius)))


def pack(delta: jax.Array | np.ndarray, parts: int) -> Any:
  """Rounds a perturbation, float in [0, 1] pixel units, to int16 in `parts` of a 255th."""
  return (delta * np.float32(255 * parts)).round().astype(np.int16)


def unpack(stored: jax.Array | np.ndarray, parts: int) -> Any:
  """Returns a perturbation that `pack` stored, float32 in [0, 1] pixel units."""
  return stored.astype(np.float32) / np.float32(255 * parts)


def blocks(shape: tuple[int, ...]) -> Iterator[slice]:
  """Yields slices of an array `[N, H, W, C]` whose float copies are small."""
  size = max(1, _BLOCK_VALUES // math.prod(shape[1:]))
  return (slice(start, start + size) for start in range(0, shape[0], size))


def quantise(
  images: np.ndarray,
  delta: np.ndarray,
  epsilon: float,
  rounding: str = "nearest",
  norm: str = "linf",
) -> np.ndarray:
  """Returns the perturbation that remains when the poisoned images are stored as uint8.

  Args:
    images: Clean images uint8 `[N, H, W, C]`.
    delta: Perturbation, float `[N, H, W, C]` in [0, 1] pixel units.
    epsilon: Budget in the same units, at most 127/255.
    rounding: `nearest`, or `truncate`, which drops the fraction as the authors' code does. This
      shifts every image by half a 255th.
    norm: Norm that epsilon bounds, as in `exceeds`. Single pixels are clipped. An image that
      exceeds its L2 budget, perhaps only by rounding, is scaled down.

  Returns:
    Perturbation in 255ths, `stored_type(epsilon, norm)` `[N, H, W, C]`. It keeps the budget, and
    `0 <= images + result <= 255`.
  """
  chex.assert_equal_shape([images, delta])
  limit = largest_change(epsilon, norm)
  # The small offset keeps float32 noise from truncating a whole level (99.99999 -> 99).
  to_level = {"nearest": np.rint, "truncate": lambda x: np.floor(x + 1e-3)}[rounding]

  def stored(clean: np.ndarray, exact: np.ndarray) -> np.ndarray:
    level = to_level(np.clip(clean + 255 * exact, 0, 255))
    return np.clip(level.astype(np.int16) - clean, -limit, limit)

  quantised = np.empty(images.shape, stored_type(epsilon, norm))
  for block in blocks(images.shape):
    clean = images[block].astype(np.int16)
    exact = np.asarray(delta[block], np.float32)
    result = stored(clean, exact)
    if norm == "l2":
      over = np.flatnonzero(exceeds(result, epsilon, norm))
      smaller = exact[over]
      while len(over):
        smaller = _SHRINK * smaller
        result[over] = stored(clean[over], smaller)
        still = exceeds(result[over], epsilon, norm)
        over, smaller = over[still], smaller[still]
    quantised[block] = result
  return quantised


def random_noise(images: np.ndarray, ids: np.ndarray, epsilon: float, seed: int) -> np.ndarray:
  """Draws quantised uniform noise in `[-epsilon, epsilon]`, the control of every table.

  Args:
    images: Clean images uint8 `[n, H, W, C]`.
    ids: Indices of these images in their dataset, `[n]`. They decide which noise an image gets.
    epsilon: Budget in [0, 1] pixel units.
    seed: Seed of NumPy's default generator.

  Returns:
    Noise int8 `[n, H, W, C]` in 255ths.
  """
  noise = np.empty(images.shape, np.float32)
  for row, index in enumerate(ids):
    # The whole dataset is one stream of random numbers, one for each value of an image.
    bits = np.random.PCG64(seed).advance(int(index) * noise[row].size)
    noise[row] = np.random.Generator(bits).uniform(-epsilon, epsilon, noise[row].shape)
  return quantise(images, noise, epsilon)
