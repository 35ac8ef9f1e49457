"""EM: error-minimising noise (Huang et al., "Unlearnable Examples", ICLR 2021).

  repeat until f errs on less than 1 % of x + delta:
    theta <- argmin  CE(f(x + delta), y)                     source model, a few batches
    delta <- argmin  CE(f(x + delta), y),  |delta| <= eps    sign steps, one pass

Both sides minimise one loss: the perturbation makes images so easy that nothing is left to learn
from them. `method.source_steps` and `method.stop_error` set the batches and the per cent; the error
is that of every batch as its last sign step found it. One perturbation for each class
(`method.class_wise`) is the paper's other variant.
"""

from miue_jax import objectives
from miue_jax.data.dataset import Dataset
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.progress import Reporter
from miue_jax.methods import alternating, delta
from miue_jax.methods.generated import Generated
from miue_jax.settings.config import Config, Method


def generate(
  dataset: Dataset, config: Config, checkpoints: Checkpoints, progress: Reporter
) -> Generated:
  """Makes an EM poison; arguments and errors as `alternating.generate`."""
  return alternating.generate(dataset, config, bilevel(config.method), checkpoints, progress)


def bilevel(method: Method) -> alternating.Bilevel:
  """What each side does."""
  return alternating.Bilevel(objective(method))


def objective(method: Method) -> delta.Objective:
  """Cross-entropy of the true class, as a delta step wants it."""
  del method

  def loss(features, logits, labels, weights):
    del features, weights
    return objectives.cross_entropy(logits, labels)

  return loss
