"""Runs of methods."""

import dataclasses

import pytest
from tiny import Recorded, Tiny

from miue_jax import models
from miue_jax.methods import METHODS


@pytest.fixture
def runs(tmp_path, use_devices, monkeypatch, reporter):
  """Returns `runs(dataset, config)`, which returns `generate(...)`.

  That is a run, by default of the config's method on two devices, and its last state.
  """
  monkeypatch.setitem(models.MODELS, "tiny", Tiny)

  def of(dataset, config):
    def run(folder="run", name=config.method.name, devices=2, stop_at=None, **method):
      use_devices(devices)
      changed = dataclasses.replace(config.method, name=name, **method)
      states = Recorded(tmp_path / folder)
      made = METHODS[name](
        dataset, dataclasses.replace(config, method=changed), states, reporter(stop_at)
      )
      return made, getattr(states, "tree", None)

    return run

  return of
