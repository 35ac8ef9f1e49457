"""Makes image datasets unlearnable by mutual-information reduction (MI-UE), and tests them.

  >>> import miue_jax as mj
  >>> poison = mj.protect(x_train, y_train, method="miue", epsilon=8 / 255, seed=0)
  >>> x_public = poison.apply(x_train)
  >>> assert (poison.restore(x_public) == x_train).all()
  >>> rows = mj.evaluate({"clean": x_train, "miue": x_public}, y_train, (x_test, y_test))
  >>> mi = mj.mutual_information(features_clean, features_public)

No folder, mesh or config is needed. Problems that a user can solve are raised as `UserError`.
"""

import logging

# A library prints no log by itself; without a handler, Python would print its warnings.
logging.getLogger(__name__).addHandler(logging.NullHandler())

# Type checkers know this name, and `typing` would take longer than this module.
TYPE_CHECKING = False
if TYPE_CHECKING:
  from typing import Any

  from miue_jax import defences, information, methods, models, objectives, transforms
  from miue_jax.artefact.poison import Poison
  from miue_jax.data.dataset import Dataset, Split
  from miue_jax.experiment.api import evaluate, protect
  from miue_jax.information import mutual_information
  from miue_jax.settings.errors import UserError

__version__ = "0.2.0"

__all__ = [
  "Dataset",
  "Poison",
  "Split",
  "UserError",
  "__version__",
  "defences",
  "evaluate",
  "information",
  "methods",
  "models",
  "mutual_information",
  "objectives",
  "protect",
  "transforms",
]

# The module that defines each name. It is imported when the name is first used: jax and the
# networks take seconds, which --help on the command line should not cost.
_HOME = {
  "Dataset": "miue_jax.data.dataset",
  "Poison": "miue_jax.artefact.poison",
  "Split": "miue_jax.data.dataset",
  "UserError": "miue_jax.settings.errors",
  "evaluate": "miue_jax.experiment.api",
  "mutual_information": "miue_jax.information",
  "protect": "miue_jax.experiment.api",
}


def __getattr__(name: str) -> "Any":
  import importlib

  if name not in __all__:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  if name not in _HOME:
    return importlib.import_module(f"{__name__}.{name}")
  return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
  return sorted(__all__)
