"""Provides the defences of a victim that suspects a poison; `build` finds each by its name.

A defence changes the stored training images once, every batch, or the settings of the training. To
add one, write a file that makes a `Defence` and add a line to `DEFENCES`.

Example:
  >>> import miue_jax.defences as defences
  >>> defences.build("jpeg10").name
  'jpeg10'
"""

import functools
import string

from miue_jax import transforms
from miue_jax.defences import (
  adversarial,
  projection,
  purification,
  repetition,
  squeezing,
  ueraser,
)
from miue_jax.defences.defence import Defence, Family
from miue_jax.settings.errors import UserError
from miue_jax.transforms import Hooks

__all__ = ["DEFENCES", "Defence", "Family", "build", "known"]

DEFENCES: dict[str, Defence | Family] = {
  defence.name: defence
  for defence in (
    Defence("none"),
    squeezing.GRAYSCALE,
    Defence("cutout", hooks=Hooks(augment=transforms.cutout)),
    Defence("cutmix", hooks=Hooks(augment=transforms.cutmix)),
    Defence("mixup", hooks=Hooks(augment=transforms.mixup)),
    Defence("blur", hooks=Hooks(augment=transforms.blur)),
    Defence("noise", hooks=Hooks(augment=transforms.noise)),
    Defence("trivialaugment", hooks=Hooks(augment=transforms.trivial_augment)),
    ueraser.UERASER,
    projection.PROJECTION,
    purification.variational(),
    # Reports the epoch with the best accuracy on clean validation images, which the literature
    # calls the peak. Held-out poisoned images would not show it.
    Defence("earlystop", needs_clean=True, stops_early=True),
    Family("jpeg", squeezing.jpeg, range(1, 96)),  # quality
    Family("at", adversarial.adversarial_training, range(1, 128)),  # radius in 255ths
    Family("avatar", purification.diffusion, range(1, 1001)),  # level of noise
    Family("bits", squeezing.bits, range(1, 8)),  # bits per channel
    Family("tiles", repetition.tiles, range(2, 33)),  # period in pixels
  )
}


def build(name: str) -> Defence:
  """Returns the defence called `name`.

  Args:
    name: Key of a `Defence` in `DEFENCES`, such as "grayscale", or of a `Family` followed by its
      number, such as "jpeg10".

  Raises:
    UserError: No defence has this name, the family does not have this number, or it is no name.
  """
  if not isinstance(name, str):
    raise UserError(f"A defence is {name!r}: give a name, such as 'jpeg10'.")
  found = DEFENCES.get(name)
  if isinstance(found, Defence):
    return found
  kind = name.rstrip(string.digits)
  number, family = name[len(kind) :], DEFENCES.get(kind)
  if isinstance(family, Family) and number in map(str, family.numbers):
    return _member(family, int(number))
  raise UserError(
    f"Unknown defence {name!r}; known: {known()}; one that a recipe adds needs --config=RECIPE."
  )


@functools.lru_cache  # one object for each name, so that programs compiled for it are found again
def _member(family: Family, number: int) -> Defence:
  return family.make(number)


def known() -> str:
  """Returns the names of all defences as text; families read "jpeg1 to jpeg95"."""
  return ", ".join(
    f"{name}{found.numbers[0]} to {name}{found.numbers[-1]}" if isinstance(found, Family) else name
    for name, found in DEFENCES.items()
  )
