"""Provides the recipe and the sizes that most tests of the benchmarks share."""

import pytest

from miue_jax.plan.sizes import Sizes
from miue_jax.settings.config import Config, Data, Fit, Method, Model, Sgd

LINEAR = Model(name="linear")  # compiles quickly


@pytest.fixture
def config():
  """A recipe with a linear classifier and small batches."""
  return Config(
    data=Data(source="npz"),
    model=LINEAR,
    victim=LINEAR,
    source=Sgd(batch_size=8),
    method=Method(batch_size=16, epochs=1, steps=2),
    victim_fit=Fit(batch_size=8),
  )


@pytest.fixture
def sizes():
  """Small colour images in four classes."""
  return Sizes((8, 8, 3), 32, 40, 4)
