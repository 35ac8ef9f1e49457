"""Provides the recipe and the sizes that most tests of the benchmarks share."""

import pytest

from miue_jax.methods import miue
from miue_jax.plan.sizes import Sizes
from miue_jax.settings.config import Config, Data, Fit, Model, Sgd

LINEAR = Model(name="linear")  # compiles quickly


@pytest.fixture
def config():
  """A recipe with a linear classifier and small batches."""
  method = miue.Settings(model=LINEAR, source=Sgd(batch_size=8), batch_size=16, epochs=1, steps=2)
  data, fit = Data(source="npz"), Fit(batch_size=8)
  return Config(data=data, method=method, victim=LINEAR, victim_fit=fit)


@pytest.fixture
def sizes():
  """Small colour images in four classes."""
  return Sizes((8, 8, 3), 32, 40, 4)
