"""What methods without a source model share: choice of images, random draws, budget."""

import time
from collections.abc import Callable

import numpy as np

from miue_jax import budget
from miue_jax.data.dataset import Dataset
from miue_jax.machine import processes
from miue_jax.methods.delta import chosen_images
from miue_jax.methods.generated import Generated
from miue_jax.settings.config import Config

# (generator, clean images uint8 [n, H, W, C], labels [n]) -> float32 delta [n, H, W, C] in [0, 1]
# pixel units, before it is brought into its budget. The generator belongs to these images.
Pattern = Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]

_BLOCK_VALUES = 2**24  # of the images that are held as floats at a time


def generate(dataset: Dataset, config: Config, pattern: Pattern, started: float) -> Generated:
  """Adds `pattern` to the chosen images, within `method.norm` and `method.epsilon`.

  The lead alone computes: a pattern takes seconds, and restarts from nothing.

  Args:
    dataset: only its training split is used.
    config: `method` and `seed` matter here.
    pattern: what is added.
    started: `time.monotonic()` when the method began.
  """
  method, train = config.method, dataset.train
  chosen = chosen_images(train.labels, method, config.seed)
  perturbed = None if chosen.all() else np.flatnonzero(chosen)
  if not processes.is_lead():
    return Generated(None, 0.0, perturbed, {})
  shape = train.images.shape
  delta = np.empty(shape, budget.stored_type(method.epsilon, method.norm))
  size = max(1, _BLOCK_VALUES // int(np.prod(shape[1:])))
  for start in range(0, len(train), size):
    part = slice(start, start + size)
    images = train.images[part]
    exact = pattern(np.random.default_rng((config.seed, start)), images, train.labels[part])
    delta[part] = budget.quantise(images, exact, method.epsilon, method.rounding, method.norm)
  delta[~chosen] = 0
  return Generated(delta, time.monotonic() - started, perturbed, {})


def to_budget(delta: np.ndarray, epsilon: float, norm: str) -> np.ndarray:
  """Scales each image's pattern so that it just reaches its budget; `none` leaves it as it is.

  Args:
    delta: float `[n, H, W, C]`, of any size.
    epsilon: the budget, in [0, 1] pixel units.
    norm: `linf`: the largest value becomes epsilon; `l2`: the root mean square does.
  """
  axes = (1, 2, 3)
  if norm == "none":
    return delta
  if norm == "linf":
    length = np.abs(delta).max(axis=axes, keepdims=True)
  else:
    length = np.sqrt(np.square(delta).mean(axis=axes, keepdims=True))
  return delta * (epsilon / np.maximum(length, np.finfo(delta.dtype).tiny))
