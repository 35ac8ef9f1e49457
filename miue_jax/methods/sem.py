"""SEM: stable error-minimising noise (Liu et al., "Stable Unlearnable Example", AAAI 2024).

  theta <- argmin    max_rho  CE(f(T(x + delta) + rho), y)       source model, trained adversarially
  delta <- argmin E_T E_rho  CE(f(T(x + delta) + rho), y)        rho ~ U(-eps_a, eps_a)
  repeat for every epoch;   |delta| <= eps,  |rho| <= eps_a

SEM is REM with random noise instead of an adversary for delta, at a tenth of the cost.
"""

import functools

from miue_jax.methods import rem
from miue_jax.methods.shared_settings import AdversarialSettings
from miue_jax.settings.schema import settings
from miue_jax.transforms import Adversary, uniform_noise


@settings
class Settings(rem.Settings):
  """Settings of SEM, equal to those of REM."""

  name: str = "sem"


def noise(settings: AdversarialSettings) -> Adversary:
  """Returns the random noise within `inner_epsilon` that replaces delta's adversary."""
  return functools.partial(uniform_noise, radius=settings.inner_epsilon)
