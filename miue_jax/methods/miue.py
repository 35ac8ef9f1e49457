"""MI-UE: collapse the poisoned features of each class (Zhu et al., ICLR 2026, arXiv 2603.03725).

  theta <- argmin  CE(f(x + delta), y)                     source model, one pass
  delta <- argmin  L_sim + zeta L_dist,  |delta| <= eps    sign steps, one pass
  repeat for every epoch

Shrinking the spread of poisoned features inside a class lowers the bound on the mutual information
between clean and poisoned features (Theorem 5.1), and a model trained on the poison does not
generalise.
"""

import jax

from miue_jax import objectives
from miue_jax.machine.meshes import AXIS
from miue_jax.methods.shared_settings import AlternatingSettings
from miue_jax.settings.schema import NonNegative, Positive, require, settings


@settings
class Settings(AlternatingSettings):
  """Settings of MI-UE, with the values of the paper."""

  name: str = "miue"
  tau: Positive = 0.1  # temperature of the similarity term
  zeta: NonNegative = 0.1  # weight of the distance term; the authors' command leaves it at 0
  similarity_weight: NonNegative = 1.0  # weight of the similarity term; 0 is the paper's ablation

  def __post_init__(self):
    """Checks fields against each other."""
    super().__post_init__()
    some = self.zeta + self.similarity_weight > 0
    require(some, "zeta", self.zeta, "positive when similarity_weight is 0")


def objective(
  features: jax.Array, logits: jax.Array, labels: jax.Array, weights: jax.Array, settings: Settings
) -> jax.Array:
  """Returns the MI-reduction loss of the local rows against the global batch."""
  del logits
  # The loss compares the whole global batch: features are gathered, images never.
  columns, column_labels, column_weights = jax.lax.all_gather(
    (features, labels, weights), AXIS, tiled=True
  )
  return objectives.mi_reduction(
    features,
    labels,
    columns,
    column_labels,
    column_weights,
    tau=settings.tau,
    zeta=settings.zeta,
    similarity_weight=settings.similarity_weight,
  )
