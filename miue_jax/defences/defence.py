"""Defines what a defence is: hooks into the training of a victim that suspects a poison."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import numpy as np

from miue_jax.data.dataset import Split
from miue_jax.settings.config import Fit
from miue_jax.train.step import State
from miue_jax.transforms import hooks as hooks_lib

# Maps (training images, clean images or None, seed) to training images, uint8 as well.
Preprocess = Callable[[Split, Split | None, int], Split]

# Maps (network, final state, test images, seed) to further columns of the victim's row.
Measures = Callable[[nn.Module, State, Split, int], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Defence:
  """Describes what a victim does against a possible poison; every field but the name is optional.

  Attributes:
    name: Name in `evaluate.defences` and in result rows.
    preprocess: Changes the stored training images once, before training.
    hooks: Functions that act on every batch.
    recipe: Changes the settings of the victim's training.
    measures: Measures the trained victim.
    needs_clean: Gives clean images to `preprocess`; the victim is not tested on these images.
    flops: Returns the FLOPs of `preprocess` from the shape of the images and their number; only for
      defences that train a separate network.
    stops_early: Adds to the row the test accuracy of the epoch whose accuracy on clean validation
      images is best; requires `needs_clean`.
  """

  name: str
  preprocess: Preprocess | None = None
  hooks: hooks_lib.Hooks = hooks_lib.NONE
  recipe: Callable[[Fit], Fit] | None = None
  measures: Measures | None = None
  needs_clean: bool = False
  flops: Callable[[tuple[int, int, int], int], float] | None = None
  stops_early: bool = False


@dataclasses.dataclass(frozen=True)
class Family:
  """Describes defences that differ in one number, such as jpeg1 to jpeg95.

  Attributes:
    name: Name without the number.
    make: Function from the number to the defence.
    numbers: Allowed numbers.
  """

  name: str
  make: Callable[[int], Defence]
  numbers: range


def each(change: Callable[[np.ndarray], np.ndarray]) -> Preprocess:
  """Returns the preprocessing that changes the training images one by one.

  Args:
    change: Function from a block of uint8 images `[n, H, W, C]` to images of the same shape; images
      that are read from files are changed when they are read.
  """

  def preprocess(train: Split, clean: Split | None, seed: int) -> Split:
    del clean, seed
    return dataclasses.replace(train, images=train.images.map(lambda ids, block: change(block)))

  return preprocess
