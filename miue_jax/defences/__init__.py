"""What a victim does about a poison; `build` knows every defence by its name.

A defence changes the stored training images once, every batch, or the recipe: `defence.Defence`.
"""

import functools
import re
from collections.abc import Callable

from miue_jax.defences import (
  adversarial,
  augmentations,
  projection,
  purification,
  squeezing,
  ueraser,
)
from miue_jax.defences.augmentations import augmentation
from miue_jax.defences.defence import Defence
from miue_jax.settings.errors import UserError
from miue_jax.transforms import trivialaugment

PLAIN: dict[str, Callable[[], Defence]] = {
  "none": lambda: Defence("none"),
  "grayscale": squeezing.grayscale_defence,
  "cutout": lambda: augmentation("cutout", augmentations.cutout),
  "cutmix": lambda: augmentation("cutmix", augmentations.cutmix),
  "mixup": lambda: augmentation("mixup", augmentations.mixup),
  "blur": lambda: augmentation("blur", augmentations.blur),
  "noise": lambda: augmentation("noise", augmentations.noise),
  "trivialaugment": lambda: augmentation("trivialaugment", trivialaugment.trivial_augment),
  "ueraser": ueraser.ueraser,
  "projection": projection.orthogonal_projection,
  "vae": purification.variational,
  # Stops where accuracy on clean validation images is best: what the literature reports as the
  # peak, for somebody who has such images. Held-out poisoned images would not tell.
  "earlystop": lambda: Defence("earlystop", needs_clean=True, stops_early=True),
}
# Named with a number: what makes it, and the numbers that it takes.
NUMBERED: dict[str, tuple[Callable[[int], Defence], range]] = {
  "jpeg": (squeezing.jpeg_defence, range(1, 96)),  # quality
  "at": (adversarial.adversarial_training, range(1, 128)),  # radius in 255ths
  "avatar": (purification.diffusion, range(1, 1001)),  # level of noise
  "bits": (squeezing.bits_defence, range(1, 8)),  # of each channel
}


@functools.lru_cache  # one object for each name, so that what is compiled for it is found again
def build(name: str) -> Defence:
  """The defence called `name`, such as "grayscale" or, with its number, "jpeg10".

  Raises:
    UserError: there is none of this name, or it does not take this number.
  """
  if name in PLAIN:
    return PLAIN[name]()
  kind, number = re.fullmatch(r"(.*?)(\d*)", name, re.DOTALL).groups()
  if kind in NUMBERED:
    make, numbers = NUMBERED[kind]
    if number == str(int(number or 0)) and int(number) in numbers:
      return make(int(number))
  raise UserError(f"Unknown defence {name!r}; known: {known()}.")


def known() -> str:
  """All names, those with a number as "jpeg1 to jpeg95"."""
  spans = [f"{kind}{n[0]} to {kind}{n[-1]}" for kind, (_, n) in NUMBERED.items()]
  return ", ".join([*PLAIN, *spans])
