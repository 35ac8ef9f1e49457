"""REM: robust error-minimising noise (Fu et al., "Robust Unlearnable Examples", ICLR 2022).

  theta <- argmin    max_rho  CE(f(T(x + delta) + rho), y)       source model, trained adversarially
  delta <- argmin E_T max_rho  CE(f(T(x + delta) + rho), y)      sign steps from a new start
  repeat for every epoch;   |delta| <= eps,  |rho| <= eps_a < eps

The noise stays easy to fit for a victim that trains adversarially with radius eps - eps_a or less.
The expectation is over `method.draws` random augmentations T; rho is found by sign steps
(`method.inner_epsilon`, `inner_steps`, `inner_step_size`) and is constant for delta's gradient.

The authors change sides after every batch, here it is after every pass. They make delta once more
against the finished source model; here the last pass does, since every pass starts anew.
"""

from miue_jax.data.dataset import Dataset
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.progress import Reporter
from miue_jax.methods import alternating, em
from miue_jax.methods.generated import Generated
from miue_jax.settings.config import Config, Method
from miue_jax.transforms import pgd


def generate(
  dataset: Dataset, config: Config, checkpoints: Checkpoints, progress: Reporter
) -> Generated:
  """Makes a REM poison; arguments and errors as `alternating.generate`."""
  return alternating.generate(dataset, config, bilevel(config.method), checkpoints, progress)


def bilevel(method: Method) -> alternating.Bilevel:
  """What each side does."""
  worst = pgd.pgd(method)
  return alternating.Bilevel(
    em.objective(method), source_adversary=worst, delta_adversary=worst, fresh=True
  )
