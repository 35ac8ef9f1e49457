"""REM: robust error-minimising noise (Fu et al., "Robust Unlearnable Examples", ICLR 2022).

  theta <- argmin    max_rho  CE(f(T(x + delta) + rho), y)       source model, trained adversarially
  delta <- argmin E_T max_rho  CE(f(T(x + delta) + rho), y)      sign steps from a new start
  repeat for every epoch;   |delta| <= eps,  |rho| <= eps_a < eps

The noise stays easy to fit for a victim that trains adversarially with radius eps - eps_a or less.
The expectation is over `draws` random augmentations T; rho is found by sign steps (`inner_epsilon`,
`inner_steps`, `inner_step_size`) and is constant for delta's gradient.

The authors change sides after every batch; here sides change after every pass. They make delta once
more against the finished source model; here the last pass does that, since every pass starts again.
"""

import functools

from miue_jax.methods.shared_settings import AdversarialSettings, Draws, Init
from miue_jax.settings.config import Augmentation, Sgd
from miue_jax.settings.schema import Count, Positive, settings
from miue_jax.transforms import Adversary, pgd


@settings
class Settings(AdversarialSettings):
  """Settings of REM, with the values of the paper for CIFAR-10."""

  name: str = "rem"
  epochs: Count = 13  # 5,000 batches
  batch_size: Count = 128
  step_size_start: Positive = 1.6 / 255
  step_size_end: Positive = 1.6 / 255
  init: Init = "random"
  augment: Augmentation = "crop_flip"
  augment_poisoned: bool = True
  draws: Draws = 5
  source: Sgd = Sgd(weight_decay=5e-4, augment="crop_flip", schedule="steps")


def adversary(settings: AdversarialSettings) -> Adversary:
  """Returns the adversary that maximises the loss within `inner_epsilon`."""
  return functools.partial(
    pgd,
    radius=settings.inner_epsilon,
    step_size=settings.inner_step_size,
    steps=settings.inner_steps,
    moves="perturbation",
  )
