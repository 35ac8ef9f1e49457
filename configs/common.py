"""Provides the settings that recipes share."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from miue_jax.methods import METHODS
from miue_jax.settings.config import Config

# With steps that shrink, a tenth of the epochs of the papers is enough.
_ALTERNATING = {"epochs": 16, "step_size_start": 1.6 / 255, "step_size_end": 0.6 / 255}
# The delta step crops and flips the poisoned image, as victims do.
_CROPPED = {**_ALTERNATING, "augment": "crop_flip", "augment_poisoned": True}
_EM = {**_CROPPED, "steps": 10, "source_steps": 0, "stop_error": 0.0}
_AP = {"epochs": 30, "steps": 60, "step_size": 0.6 / 255, "restarts": 1}
# More and smaller steps lower the accuracy at the best epoch and after JPEG (docs/robust.md).
_AP_ROBUST = {**_AP, "steps": 150, "step_size": 0.4 / 255}
# Every pass starts at zero, so its steps must cover the budget; a tenth of the steps of the paper.
_REM = {
  **_CROPPED,
  "epochs": 10,
  "step_size_start": 1.6 / 255,
  "step_size_end": 1.6 / 255,
  "inner_steps": 2,
  "inner_step_size": 2.4 / 255,
  "init": "zeros",
  "draws": 1,
}
# Settings for a small network and some thousand images, by method; other methods keep the values
# of their papers.
SMALL: dict[str, dict[str, Any]] = {
  "ap": _AP,
  "ap_max": _AP,
  "ap_mine": _AP,
  "ap_robust": _AP_ROBUST,
  "em": _EM,
  "em_mine": _EM,
  "gue": {"epochs": 16},
  "miue": _ALTERNATING,
  "miue_robust": _CROPPED,
  "rem": _REM,
  "sem": _REM,
  "tue": {**_CROPPED, "steps": 10},
}


def recipe(name: str, method: str = "miue") -> ml_collections.ConfigDict:
  """Returns a recipe with the default settings and a method with the values of its paper.

  Raises:
    ValueError: There is no such method.
  """
  if method not in METHODS:
    raise ValueError(f"there is no method {method!r}; known: {', '.join(METHODS)}")
  settings = Config(name=name, method=METHODS[method].settings())
  return ml_collections.ConfigDict(dataclasses.asdict(settings))


def small(name: str, method: str = "miue", width: int = 16) -> ml_collections.ConfigDict:
  """Returns a recipe for some thousand images and small CNNs, sized for two CPU cores."""
  c = recipe(name, method)
  adjust(c.method, SMALL.get(method, {}))
  adjust(c.method, shared(width))
  c.victim.name = "small_cnn"
  c.victim.width = width
  c.victim_fit.epochs = 20
  c.victim_fit.learning_rate = 0.1
  c.victim_fit.weight_decay = 5e-4
  return c


def shared(width: int) -> dict[str, Any]:
  """Returns the settings that all methods share when they use a small CNN."""
  return {
    "model": {"name": "small_cnn", "width": width},
    "source": {
      "batch_size": 128,
      "learning_rate": 0.1,
      "final_learning_rate": 1e-6,
      "momentum": 0.9,
      "weight_decay": 5e-4,
      "augment": "crop_flip",
      "schedule": "cosine",
    },
    "batch_size": 256,
    "checkpoint_every": 1,
  }


def adjust(section: ml_collections.ConfigDict, changes: Mapping[str, Any]) -> None:
  """Changes settings of a section and ignores changes of settings that it does not have.

  A method without a source model, for example, has no `source`.
  """
  for key, value in changes.items():
    if key in section and isinstance(value, Mapping):
      adjust(section[key], value)
    elif key in section:
      section[key] = value
