"""AP: adversarial poisons (Fowl et al., "Adversarial Examples Make Strong Poisons", NeurIPS 2021).

  theta <- argmin  CE(f(x), y)                                 source model, on clean images
  repeat for every restart, from noise:
    delta <- argmin  CE(f(T(x + delta)), y + 1 mod C),  |delta| <= eps             targeted, or
    delta <- argmax  CE(f(T(x + delta)), y),            |delta| <= eps             error-maximising
  every image keeps the delta of its best restart

T is a random augmentation, drawn for every sign step and differentiated through. A model that
trains on the poison learns, for each class, the features of another class.
"""

import jax

from miue_jax import objectives
from miue_jax.methods.attack import AttackSettings
from miue_jax.methods.shared_settings import Init
from miue_jax.settings.config import Augmentation, Sgd
from miue_jax.settings.schema import Count, Positive, settings


@settings
class Settings(AttackSettings):
  """Settings of AP, with the values of the paper for CIFAR-10."""

  name: str = "ap"
  epochs: Count = 40
  steps: Count = 250
  step_size: Positive = 0.4 / 255
  restarts: Count = 8
  init: Init = "random"
  augment: Augmentation = "crop_flip"
  augment_poisoned: bool = True
  source: Sgd = Sgd(weight_decay=5e-4, augment="crop_flip")


@settings
class MaximisingSettings(Settings):
  """Settings of error-maximising AP, equal to those of targeted AP."""

  name: str = "ap_max"


def targeted(
  features: jax.Array, logits: jax.Array, labels: jax.Array, weights: jax.Array, settings: Settings
) -> jax.Array:
  """Returns the cross-entropy of the class after the true one; the last class precedes class 0."""
  del features, weights, settings
  return objectives.cross_entropy(logits, (labels + 1) % logits.shape[1])


def maximising(
  features: jax.Array, logits: jax.Array, labels: jax.Array, weights: jax.Array, settings: Settings
) -> jax.Array:
  """Returns minus the cross-entropy of the true class."""
  del features, weights, settings
  return -objectives.cross_entropy(logits, labels)
