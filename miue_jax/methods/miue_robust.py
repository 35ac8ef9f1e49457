"""MI-UE that gets through squeezing: both sides see images as a cautious victim would.

  theta <- argmin E_S  CE(f(S(x + delta)), y)                    source model, one pass
  delta <- argmin E_S  L_sim + zeta L_dist of f(S(x + delta)),   |delta| <= eps
  repeat for every epoch

S is drawn for every image and step from `method.squeezes`: nothing, grayscale, JPEG. The features
of a class collapse over what squeezing leaves, so that a victim finds the shortcut whether or not
it squeezes (expectation over transformations: Athalye et al., ICML 2018). Not in the paper, whose
poison loses to squeezing; docs/robust.md says what it keeps and what it costs.
"""

from miue_jax.data.dataset import Dataset
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.progress import Reporter
from miue_jax.methods import alternating, miue
from miue_jax.methods.generated import Generated
from miue_jax.settings.config import Config, Method
from miue_jax.transforms import recompression


def generate(
  dataset: Dataset, config: Config, checkpoints: Checkpoints, progress: Reporter
) -> Generated:
  """Makes a robust MI-UE poison; arguments and errors as `alternating.generate`."""
  return alternating.generate(dataset, config, bilevel(config.method), checkpoints, progress)


def bilevel(method: Method) -> alternating.Bilevel:
  """What each side does."""
  return alternating.Bilevel(
    miue.objective(method), squeeze=recompression.random_squeeze(method.squeezes)
  )
