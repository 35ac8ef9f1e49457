"""Tests that a new method takes one short file with public names, and one line in a table."""

import ast
import importlib.util
import pathlib

import numpy as np
import pytest
from tiny import Tiny, noisy_dataset

from miue_jax import methods
from miue_jax.methods import METHODS, Sizes
from miue_jax.settings import config
from miue_jax.settings.config import Model, Sgd
from miue_jax.settings.errors import UserError

FILE = pathlib.Path(__file__).parent / "toy.py"
DATASET = noisy_dataset(44)


@pytest.fixture
def toy(monkeypatch):
  """Imports the file; its methods are gone after the test."""
  monkeypatch.setattr(methods, "METHODS", dict(METHODS))
  spec = importlib.util.spec_from_file_location("toy", FILE)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return methods.METHODS


def test_a_toy_file_is_short_and_uses_only_public_names():
  text = FILE.read_text()
  assert len(text.splitlines()) < 60
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.ImportFrom):
      assert node.module == "miue_jax.methods"
      assert {name.name for name in node.names} <= set(methods.__all__)


def test_a_toy_method_pulls_logits_towards_its_target(toy, runs):
  settings = toy["toy"].settings(
    model=Model(name="tiny"),
    source=Sgd(batch_size=8, augment="none"),
    epochs=2,
    batch_size=16,
    steps=8,
    augment="none",
  )
  made, state = runs(DATASET, settings)(method=toy["toy"])
  clean = DATASET.train.images
  assert 0 < np.abs(made.delta).max() <= 8
  distances = []
  for images in (clean, clean + made.delta):
    variables = state.parts["source"].variables
    _, logits = Tiny(Model(), 3).apply(variables, np.asarray(images, np.float32) / 255)
    distances.append(np.mean((logits - 3) ** 2))
  assert distances[1] < distances[0]


def test_a_plan_knows_the_steps_of_a_toy_method(toy, runs, use_devices):
  use_devices(2)
  settings = toy["toy"].settings(model=Model(name="tiny"), source=Sgd(batch_size=8), batch_size=16)
  phases = toy["toy"].phases(settings, Sizes((8, 8, 1), 44, 3), 0)
  assert [(phase.name, phase.steps, phase.segments) for phase in phases] == [
    ("source", 5, 100),
    ("delta", 30, 100),
  ]


def test_a_toy_pattern_is_drawn_and_its_settings_are_checked(toy):
  settings = toy["stripes"].settings(epsilon=3 / 255, only_class=1)
  made = toy["stripes"].generate(DATASET, settings, 0, None, None)
  labels = DATASET.train.labels
  expected = np.zeros_like(DATASET.train.images, np.int8)
  expected[labels == 1, 1] = 3
  np.testing.assert_array_equal(made.delta, expected)
  known = {name: method.settings for name, method in toy.items()}
  values = {"method": {"name": "stripes", "epsilon": 3 / 255}}
  assert config.freeze(values, known).method == toy["stripes"].settings(epsilon=3 / 255)
  with pytest.raises(UserError, match=r"Unknown setting method\.epsilom; did you mean method\.eps"):
    config.freeze({"method": {"name": "stripes", "epsilom": 0.1}}, known)
