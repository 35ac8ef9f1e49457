"""Tests that further images are perturbed with a frozen source model."""

import dataclasses

import jax
import numpy as np
import pytest
from test_alternating import BATCH, DATASET, SETTINGS, error_minimising
from tiny import Tiny

from miue_jax import models
from miue_jax.machine import meshes
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.progress import Progress
from miue_jax.methods import Alternating, AlternatingSettings
from miue_jax.methods.continuation import Continuation

pytestmark = pytest.mark.usefixtures("quick_compiler")

METHOD = Alternating(AlternatingSettings, objective=error_minimising)
MOVING = np.arange(len(DATASET.train)) % 3 == 0


def progress(name, steps, epochs, start):
  return Progress(None, name, steps, epochs, start)


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
  monkeypatch.setitem(models.MODELS, "tiny", Tiny)


@pytest.fixture
def source(tiny_network):
  with jax.set_mesh(None):
    meshes.start(2, (BATCH,))
    made = METHOD.generate(DATASET, SETTINGS, 0, Checkpoints(None), progress)
  return made.source


def moved(source, devices=2, passes=3, **changes):
  meshes.start(devices, (BATCH,))
  continued = Continuation(METHOD, source, MOVING, passes)
  settings = dataclasses.replace(SETTINGS, **changes)
  return continued.generate(DATASET, settings, 5, Checkpoints(None), progress)


@pytest.mark.slow
def test_a_generation_returns_its_source_model(source):
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(source))
  assert set(source) == {"params", "batch_stats"}


@pytest.mark.slow
def test_only_new_images_are_perturbed_within_the_budget(source):
  made = moved(source, epsilon=3 / 255)
  assert (made.delta[~MOVING] == 0).all()
  assert np.abs(made.delta[MOVING]).reshape(MOVING.sum(), -1).max(axis=1).min() == 3
  poisoned = DATASET.train.images[:].astype(int) + made.delta
  assert poisoned.min() >= 0
  assert poisoned.max() <= 255


def test_the_source_model_is_frozen_and_the_objective_falls(source):
  made = moved(source)
  jax.tree.map(np.testing.assert_array_equal, made.source, source)
  assert made.history["objective"][-1] < made.history["objective"][0]


@pytest.mark.slow
def test_results_do_not_depend_on_the_devices(source):
  with jax.set_mesh(None):
    one = moved(source, devices=1).delta
  with jax.set_mesh(None):
    two = moved(source, devices=2).delta
  assert np.mean(one != two) < 0.01
