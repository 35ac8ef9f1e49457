"""EM: error-minimising noise (Huang et al., "Unlearnable Examples", ICLR 2021).

  repeat until f errs on less than 1 % of x + delta:
    theta <- argmin  CE(f(x + delta), y)                     source model, a few batches
    delta <- argmin  CE(f(x + delta), y),  |delta| <= eps    sign steps, one pass

Both sides minimise the same loss: the perturbation makes images so easy that nothing is left to
learn from them. `source_steps` is the number of batches, `stop_error` the percentage of errors,
which are counted in the last sign step of every batch. `class_wise`, the other variant of the
paper, makes one perturbation for each class.
"""

import jax

from miue_jax import objectives
from miue_jax.methods.shared_settings import AlternatingSettings
from miue_jax.settings.config import Augmentation, Sgd
from miue_jax.settings.schema import Count, CountOrZero, Percent, Positive, settings


@settings
class Settings(AlternatingSettings):
  """Settings of EM, with the values of the paper for CIFAR-10."""

  name: str = "em"
  epochs: Count = 40  # stop_error ends it earlier
  source_steps: CountOrZero = 10
  stop_error: Percent = 1.0
  steps: Count = 20
  step_size_start: Positive = 0.8 / 255
  step_size_end: Positive = 0.8 / 255
  augment: Augmentation = "none"
  # The learning rate is constant.
  source: Sgd = Sgd(weight_decay=5e-4, augment="none", final_learning_rate=0.1)


def cross_entropy(
  features: jax.Array, logits: jax.Array, labels: jax.Array, weights: jax.Array, settings: Settings
) -> jax.Array:
  """Returns the cross-entropy of the true class, one value per row."""
  del features, weights, settings
  return objectives.cross_entropy(logits, labels)
