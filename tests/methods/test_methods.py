"""Tests the table of methods: settings, and the steps that a plan knows of."""

import dataclasses

import numpy as np
import pytest
from tiny import SEED, noisy_dataset

from miue_jax import methods
from miue_jax.methods import METHODS, Sizes
from miue_jax.settings.config import Model, Sgd
from miue_jax.train import loop

COUNT = 44
DATASET = noisy_dataset(COUNT, channels=3)
SMALL = {
  "model": Model(name="tiny", width=2),
  "source": Sgd(batch_size=16, augment="none"),
  "epochs": 2,
  "batch_size": 16,
  "steps": 2,
  "restarts": 2,
  "response_steps": 1,
  "inner_steps": 1,
  "draws": 1,
  "augment": "none",
}


def small_settings(name):
  kind = METHODS[name].settings
  names = {field.name for field in dataclasses.fields(kind)}
  return kind(**{key: value for key, value in SMALL.items() if key in names})


@pytest.mark.parametrize("name", METHODS)
def test_the_settings_of_a_method_carry_its_name(name):
  assert METHODS[name].settings().name == name


def test_settings_come_from_the_module_with_the_name_of_the_method():
  for name in METHODS.keys() - {"ap_max", "ap_mine", "em_mine"}:
    assert METHODS[name].settings is getattr(methods, name).Settings


@pytest.mark.long
@pytest.mark.parametrize("name", METHODS)
def test_a_plan_knows_every_step_of_a_generation(runs, monkeypatch, quick_compiler, name):
  driven, drive = [], loop.drive

  def record(state, segments, **options):
    driven.extend(segments)
    return drive(state, segments, **options)

  monkeypatch.setattr(loop, "drive", record)
  settings = small_settings(name)
  made, _ = runs(DATASET, settings)()
  assert made.delta.shape == DATASET.train.images.shape
  assert np.abs(made.delta).max() > 0
  image = DATASET.train.images.shape[1:]
  phases = METHODS[name].phases(settings, Sizes(image, COUNT, 3), SEED)
  planned = sum(phase.steps * phase.segments for phase in phases)
  assert planned == sum(segment.steps for segment in driven)
  assert {phase.steps for phase in phases} >= {segment.steps for segment in driven} - {
    settings.steps if name == "ntga" else 0
  }
