"""The budget: schedules, sign step, projection, and rounding to what an image file can hold."""

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

# What a budget epsilon bounds: every pixel, the root mean square change of an image, or nothing.
NORMS = ("linf", "l2", "none")

_BLOCK_VALUES = 2**22  # of images that are widened to float32 at a time
_SHRINK = 0.99  # factor by which an image's perturbation is reduced until it keeps an L2 budget


def budget(epsilon: float) -> int:
  """The largest change of a stored pixel, in 255ths: `round(255 epsilon)`."""
  return round(255 * epsilon)


def largest_change(epsilon: float, norm: str) -> int:
  """The largest change of one stored pixel, in 255ths, under a budget in one of `NORMS`."""
  return {"linf": budget(epsilon), "l2": 127, "none": 255}[norm]


def stored_type(epsilon: float, norm: str) -> np.dtype:
  """What a quantised perturbation is stored in: int8, or int16 where changes may exceed 127."""
  return np.dtype(np.int8 if largest_change(epsilon, norm) <= 127 else np.int16)


def exceeds(delta: np.ndarray, epsilon: float, norm: str) -> np.ndarray:
  """Which images of a quantised perturbation break their budget, bool `[N]`.

  Args:
    delta: integers `[N, H, W, C]` in 255ths.
    epsilon: the budget, in [0, 1] pixel units.
    norm: `linf`: `|delta| <= budget(epsilon)`; `l2`: `||delta||_2 <= 255 epsilon sqrt(H W C)`, and
      no pixel by more than 127; `none`: any delta.
  """
  flat = delta.reshape(len(delta), -1)
  limit = largest_change(epsilon, norm)
  over = (flat.max(axis=1) > limit) | (flat.min(axis=1) < -limit)
  if norm == "l2":
    # Exact: integers are added up, and one float is compared with the sum.
    over |= np.square(flat, dtype=np.int32).sum(axis=1) > (255 * epsilon) ** 2 * flat.shape[1]
  return over


def step_size(epoch: int, epochs: int, start: float, end: float) -> float:
  """Step size of `epoch` in `1..epochs`: `(E - e + 1) / E * (start - end) + end`.

  Starts at `start` and moves linearly towards `end`; the authors' schedule.
  """
  return (epochs - epoch + 1) / epochs * (start - end) + end


def radius(epoch: int, epsilon: float, start: float, epochs: int) -> float:
  """Radius of `epoch` (from 1): falls linearly from `start` to `epsilon` over `epochs` epochs."""
  if epoch > epochs:
    return epsilon
  return start + (epsilon - start) * (epoch - 1) / epochs


def project(images: jax.Array, delta: jax.Array, epsilon: jax.Array | float) -> jax.Array:
  """Projects onto `|delta| <= epsilon` and `0 <= images + delta <= 1`; all `[..., H, W, C]`."""
  delta = jnp.clip(delta, -epsilon, epsilon)
  return jnp.clip(images + delta, 0.0, 1.0) - images


def descend(delta: jax.Array, gradient: jax.Array, size: jax.Array | float) -> jax.Array:
  """One sign step against the gradient, before projection."""
  return delta - size * jnp.sign(gradient)


def resolution(radius: float) -> int:
  """In how many parts a stored perturbation divides a 255th: what int16 allows up to `radius`.

  A power of two, so that whole levels are exact; 2048 for 8/255. Half a part is far below what a
  sign step moves, and int16 takes half the memory of float32.
  """
  return 2 ** math.floor(math.log2(np.iinfo(np.int16).max / (255 * radius)))


def pack(delta: jax.Array | np.ndarray, parts: int) -> jax.Array | np.ndarray:
  """Float perturbation in [0, 1] pixel units -> int16, in `parts` of a 255th, to the nearest."""
  return (delta * np.float32(255 * parts)).round().astype(np.int16)


def unpack(stored: jax.Array | np.ndarray, parts: int) -> jax.Array | np.ndarray:
  """What `pack` stored, float32 in [0, 1] pixel units."""
  return stored.astype(np.float32) / np.float32(255 * parts)


def blocks(shape: tuple[int, ...]) -> Iterator[slice]:
  """Slices of so many images of an array `[N, H, W, C]` that a float copy of them stays small."""
  size = max(1, _BLOCK_VALUES // math.prod(shape[1:]))
  return (slice(start, start + size) for start in range(0, shape[0], size))


def quantise(
  images: np.ndarray,
  delta: np.ndarray,
  epsilon: float,
  rounding: str = "nearest",
  norm: str = "linf",
) -> np.ndarray:
  """What remains of `delta` once the poisoned image is stored as uint8.

  Args:
    images: clean, uint8 `[N, H, W, C]`.
    delta: float `[N, H, W, C]` in [0, 1] pixel units.
    epsilon: the budget in the same units, at most 127/255.
    rounding: `nearest`, or `truncate`: drop the fraction, which is what the authors' code does and
      which shifts every image by half a level.
    norm: what epsilon bounds, as in `exceeds`. Single pixels are clipped to it; an image that
      breaks its L2 budget (rounding alone may do that) is scaled down.

  Returns:
    In 255ths, `stored_type(epsilon, norm)` `[N, H, W, C]`; keeps the budget, and
    `0 <= images + result <= 255`.
  """
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


def random_noise(images: np.ndarray, epsilon: float, seed: int) -> np.ndarray:
  """Uniform noise in `[-epsilon, epsilon]`, quantised: the control every table needs.

  Args:
    images: clean, uint8 `[N, H, W, C]`.
    epsilon: the budget, in [0, 1] pixel units.
    seed: of NumPy's default generator.

  Returns:
    int8 `[N, H, W, C]` in 255ths.
  """
  generator = np.random.default_rng(seed)
  noise = generator.uniform(-epsilon, epsilon, images.shape).astype(np.float32)
  return quantise(images, noise, epsilon)
