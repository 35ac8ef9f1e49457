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
from miue_jax.data.dataset import Dataset
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.meshes import AXIS
from miue_jax.machine.progress import Reporter
from miue_jax.methods import alternating, delta
from miue_jax.methods.generated import Generated
from miue_jax.settings.config import Config, Method


def generate(
  dataset: Dataset, config: Config, checkpoints: Checkpoints, progress: Reporter
) -> Generated:
  """Makes an MI-UE poison; arguments and errors as `alternating.generate`."""
  return alternating.generate(dataset, config, bilevel(config.method), checkpoints, progress)


def bilevel(method: Method) -> alternating.Bilevel:
  """What each side does."""
  return alternating.Bilevel(objective(method))


def objective(method: Method) -> delta.Objective:
  """The MI-reduction loss of the global batch, as a delta step wants it."""

  def loss(features, logits, labels, weights):
    del logits
    # The batch of the loss is the global one: gather features, never images.
    columns, column_labels, column_weights = jax.lax.all_gather(
      (features, labels, weights), AXIS, tiled=True
    )
    return objectives.mi_reduction(
      features,
      labels,
      columns,
      column_labels,
      column_weights,
      tau=method.tau,
      zeta=method.zeta,
      similarity_weight=method.similarity_weight,
    )

  return loss
