"""EM: error-minimising noise (Huang et al., "Unlearnable Examples", ICLR 2021).

  theta <- argmin  CE(f(x + delta), y)                     source model, one pass
  delta <- argmin  CE(f(x + delta), y),  |delta| <= eps    sign steps, one pass
  repeat for every epoch

Both sides minimise one loss: the perturbation makes images so easy that nothing is left to learn
from them. One perturbation for each class (`method.class_wise`) is the paper's other variant.
"""

from miue_jax import objectives
from miue_jax.checkpoint import Checkpoints
from miue_jax.config import Config, Method
from miue_jax.data.dataset import Dataset
from miue_jax.methods import alternating
from miue_jax.progress import Reporter


def generate(
  dataset: Dataset, config: Config, checkpoints: Checkpoints, progress: Reporter
) -> alternating.Generated:
  """Makes an EM poison; arguments and errors as `alternating.generate`."""
  return alternating.generate(dataset, config, objective(config.method), checkpoints, progress)


def objective(method: Method) -> alternating.Objective:
  """Cross-entropy of the true class, as `alternating.generate` wants it."""
  del method

  def loss(features, logits, labels, weights):
    del features, weights
    return objectives.cross_entropy(logits, labels)

  return loss
