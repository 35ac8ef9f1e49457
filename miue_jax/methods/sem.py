"""SEM: stable error-minimising noise (Liu et al., "Stable Unlearnable Example", AAAI 2024).

  theta <- argmin    max_rho  CE(f(T(x + delta) + rho), y)       source model, trained adversarially
  delta <- argmin E_T E_rho  CE(f(T(x + delta) + rho), y)        rho ~ U(-eps_a, eps_a)
  repeat for every epoch;   |delta| <= eps,  |rho| <= eps_a

REM, but that delta is made against random noise instead of an adversary: a tenth of the work.
"""

import dataclasses

from miue_jax.data.dataset import Dataset
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.progress import Reporter
from miue_jax.methods import alternating, rem
from miue_jax.methods.generated import Generated
from miue_jax.settings.config import Config, Method
from miue_jax.transforms import pgd


def generate(
  dataset: Dataset, config: Config, checkpoints: Checkpoints, progress: Reporter
) -> Generated:
  """Makes an SEM poison; arguments and errors as `alternating.generate`."""
  return alternating.generate(dataset, config, bilevel(config.method), checkpoints, progress)


def bilevel(method: Method) -> alternating.Bilevel:
  """What each side does."""
  return dataclasses.replace(rem.bilevel(method), delta_adversary=pgd.uniform(method))
