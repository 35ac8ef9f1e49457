"""Provides methods that draw a pattern without a source model."""

import dataclasses
import secrets
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from miue_jax import budget
from miue_jax.data.dataset import Dataset
from miue_jax.machine import processes
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.progress import Reporter
from miue_jax.methods.delta import chosen_images
from miue_jax.methods.method import Generated, Observer, Phase, Sizes
from miue_jax.methods.shared_settings import PatternSettings
from miue_jax.settings.errors import UserError

# (generator, clean images uint8 [n, H, W, C], labels [n]) -> float32 delta [n, H, W, C] in [0, 1]
# pixel units, before projection onto the budget. Each block of images has a separate generator.
Draw = Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]

_BLOCK_VALUES = 2**24  # number of pixel values that are held as floats at a time


@dataclasses.dataclass(frozen=True)
class Pattern:
  """A method that adds a drawn pattern to the chosen images, within `norm` and `epsilon`.

  Attributes:
    settings: Class of the settings.
    pattern: Makes the function that draws the pattern, `(dataset, settings, seed) -> Draw`.
  """

  settings: type[PatternSettings]
  pattern: Callable[[Dataset, Any, int], Draw]

  def phases(self, settings: Any, sizes: Sizes, seed: int) -> tuple[Phase, ...]:
    """Returns nothing: a pattern takes no steps on the devices."""
    del settings, sizes, seed
    return ()

  def generate(
    self,
    dataset: Dataset,
    settings: Any,
    seed: int,
    checkpoints: Checkpoints,
    progress: Reporter,
    observer: Observer | None = None,
  ) -> Generated:
    """Draws the pattern on the lead process; see `method.Method`.

    A pattern takes seconds, so an interrupted run starts again.
    """
    del checkpoints, progress, observer
    if settings.secret:
      seed = processes.from_lead(lambda: secrets.randbits(128))
    started, train = time.monotonic(), dataset.train
    draw = self.pattern(dataset, settings, seed)
    chosen = chosen_images(train.labels, settings, seed)
    perturbed = None if chosen.all() else np.flatnonzero(chosen)
    if not processes.is_lead():
      return Generated(None, 0.0, perturbed, {})
    shape = train.images.shape
    delta = np.empty(shape, budget.stored_type(settings.epsilon, settings.norm))
    size = max(1, _BLOCK_VALUES // int(np.prod(shape[1:])))
    for start in range(0, len(train), size):
      part = slice(start, start + size)
      images = train.images[part]
      exact = np.asarray(draw(np.random.default_rng((seed, start)), images, train.labels[part]))
      if exact.shape != images.shape or exact.dtype.kind != "f" or not np.isfinite(exact).all():
        raise UserError(
          f"The pattern of {settings.name!r} is {exact.dtype} of shape {list(exact.shape)}: return "
          f"finite floats in [0, 1] pixel units of shape {list(images.shape)}."
        )
      delta[part] = budget.quantise(
        images, exact, settings.epsilon, settings.rounding, settings.norm
      )
    delta[~chosen] = 0
    return Generated(delta, time.monotonic() - started, perturbed, {})


def to_budget(delta: np.ndarray, epsilon: float, norm: str) -> np.ndarray:
  """Returns the pattern of each image, scaled so that it reaches the budget exactly.

  Args:
    delta: Pattern of any size, float `[n, H, W, C]`.
    epsilon: The budget, in [0, 1] pixel units.
    norm: `linf`: the largest value becomes epsilon; `l2`: the root mean square does; `none`: the
      pattern is returned unchanged.
  """
  axes = (1, 2, 3)
  if norm == "none":
    return delta
  if norm == "linf":
    length = np.abs(delta).max(axis=axes, keepdims=True)
  else:
    length = np.sqrt(np.square(delta).mean(axis=axes, keepdims=True))
  return delta * (epsilon / np.maximum(length, np.finfo(delta.dtype).tiny))
