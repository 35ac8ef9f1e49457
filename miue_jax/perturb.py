"""The budget: schedules, sign step, projection, and rounding to what an image file can hold."""

import jax
import jax.numpy as jnp
import numpy as np

# Whole images are converted in blocks of this many, so that float copies stay small.
_BLOCK = 4096


def budget(epsilon: float) -> int:
  """The largest change of a stored pixel, in 255ths: `round(255 epsilon)`."""
  return round(255 * epsilon)


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


def realise(
  images: np.ndarray, delta: np.ndarray, epsilon: float, rounding: str = "nearest"
) -> np.ndarray:
  """What remains of `delta` once the poisoned image is stored as uint8.

  Args:
    images: clean, uint8 `[N, H, W, C]`.
    delta: float `[N, H, W, C]` in [0, 1] pixel units.
    epsilon: the budget in the same units, at most 127/255.
    rounding: `nearest`, or `truncate`: drop the fraction, which is what the authors' code does and
      which shifts every image by half a level.

  Returns:
    int8 `[N, H, W, C]` in 255ths; `|result| <= budget(epsilon)`, `0 <= images + result <= 255`.
  """
  limit = budget(epsilon)
  # The small offset keeps float32 noise from truncating a whole level (99.99999 -> 99).
  to_level = {"nearest": np.rint, "truncate": lambda x: np.floor(x + 1e-3)}[rounding]
  realised = np.empty(images.shape, np.int8)
  for start in range(0, len(images), _BLOCK):
    block = slice(start, start + _BLOCK)
    clean = images[block].astype(np.int16)
    level = to_level(np.clip(clean + 255 * np.asarray(delta[block], np.float32), 0, 255))
    realised[block] = np.clip(level.astype(np.int16) - clean, -limit, limit)
  return realised


def random_noise(images: np.ndarray, epsilon: float, seed: int) -> np.ndarray:
  """Uniform noise in `[-epsilon, epsilon]`, realised: the control every table needs.

  Args:
    images: clean, uint8 `[N, H, W, C]`.
    epsilon: the budget, in [0, 1] pixel units.
    seed: of NumPy's default generator.

  Returns:
    int8 `[N, H, W, C]` in 255ths.
  """
  generator = np.random.default_rng(seed)
  noise = generator.uniform(-epsilon, epsilon, images.shape).astype(np.float32)
  return realise(images, noise, epsilon)
