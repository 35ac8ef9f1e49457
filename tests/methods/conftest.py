"""Provides runs of methods on tiny networks."""

import pytest
from tiny import SEED, Recorded, Tiny, settings_of

from miue_jax import models
from miue_jax.methods import METHODS


@pytest.fixture
def runs(tmp_path, use_devices, monkeypatch, reporter):
  """Returns `runs(dataset, settings)`, which returns `generate(...)`.

  That generates a perturbation, by default with the method that the settings name and on two
  devices, and returns it with the last state that was saved.
  """
  monkeypatch.setitem(models.MODELS, "tiny", Tiny)
  default = reporter

  def of(images, settings):
    def run(
      folder="run",
      name=settings.name,
      *,
      method=None,
      dataset=images,
      seed=SEED,
      devices=2,
      stop_at=None,
      reporter=None,
      **changes,
    ):
      use_devices(devices)
      method = method or METHODS[name]
      given = settings_of(method.settings, settings, **changes)
      states = Recorded(tmp_path / folder)
      made = method.generate(dataset, given, seed, states, reporter or default(stop_at))
      return made, states.tree

    return run

  return of
