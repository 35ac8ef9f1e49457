"""Adds two toy methods through public names only, as a user's file would."""

import jax.numpy as jnp
import numpy as np

from miue_jax.methods import (
  METHODS,
  Alternating,
  AlternatingSettings,
  Pattern,
  PatternSettings,
  settings,
)


@settings
class ToySettings(AlternatingSettings):
  """Settings of a method that pulls the logits of all images towards one value."""

  name: str = "toy"
  target: float = 3.0


def objective(features, logits, labels, weights, settings):
  """Returns the squared distance of every logit from the target, one value per row."""
  del features, labels, weights
  return jnp.mean((logits - settings.target) ** 2, axis=1)


@settings
class StripesSettings(PatternSettings):
  """Settings of a pattern with one bright row for each class."""

  name: str = "stripes"


def stripes(dataset, settings, seed):
  """Returns the function that draws the pattern."""
  del dataset, seed

  def draw(generator, images, labels):
    del generator
    delta = np.zeros(images.shape, np.float32)
    delta[np.arange(len(labels)), labels] = settings.epsilon
    return delta

  return draw


METHODS["toy"] = Alternating(ToySettings, objective=objective)
METHODS["stripes"] = Pattern(StripesSettings, stripes)
