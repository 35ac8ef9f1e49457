"""What a defence is."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from miue_jax.data.dataset import Split
from miue_jax.settings.config import Fit
from miue_jax.settings.errors import UserError
from miue_jax.train.step import State
from miue_jax.transforms import hooks as hooks_lib

# (training images, clean images or None, seed) -> training images, uint8 as well.
Preprocess = Callable[[Split, Split | None, int], Split]

# (module, last state, test images, seed) -> further columns of the victim's row.
Measures = Callable[[nn.Module, State, Split, int], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Defence:
  """What somebody who suspects a poison does about it; every field is optional.

  Attributes:
    name: as in `evaluate.defences`.
    preprocess: changes the stored training images once, before training.
    hooks: act on every batch.
    recipe: changes how the victim is trained.
    measures: looks at the trained victim.
    needs_clean: whether `preprocess` gets clean images; the victim is not tested on these.
    stops_early: whether the row also tells the test accuracy of the epoch whose accuracy on clean
      validation images is best; needs_clean must be set.
  """

  name: str
  preprocess: Preprocess | None = None
  hooks: hooks_lib.Hooks = hooks_lib.NONE
  recipe: Callable[[Fit], Fit] | None = None
  measures: Measures | None = None
  needs_clean: bool = False
  stops_early: bool = False


def in_memory(split: Split, name: str) -> Split:
  """Returns `split`.

  Raises:
    UserError: its images are read from their files whenever they are needed.
  """
  if not split.images.in_memory:
    raise UserError(
      f"Defence {name!r} looks at all training images at once: raise data.memory so that they are "
      "held in memory, or remove it from evaluate.defences."
    )
  return split
