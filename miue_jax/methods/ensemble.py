"""Makes a poison as an ensemble of independent poisons.

With one pattern for each class, victims learn a single feature of images. Patterns that were made
independently share less; docs/medical.md measures the effect.
"""

import logging
import pathlib
from typing import Any

import numpy as np

from miue_jax.data.dataset import Dataset
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.progress import Reporter
from miue_jax.methods import METHODS
from miue_jax.methods.method import Generated, Observer, check_classes

logger = logging.getLogger(__name__)


def generate(
  dataset: Dataset,
  settings: Any,
  seed: int,
  folder: pathlib.Path | None,
  progress: Reporter,
  observer: Observer | None = None,
) -> Generated:
  """Returns the poison of a method; image `i` gets that of member `i % settings.ensemble`.

  Args:
    dataset: The data; only the training split is used.
    settings: Settings of the method, with its name.
    seed: Seed of the poison; member `m` of `n` has the seed `seed * n + m`, modulo 2**32.
    folder: Folder for checkpoints; None keeps none. A finished member resumes at its end and is not
      made again.
    progress: Makes the reporter of a generation.
    observer: Looks at the first member.

  Returns:
    The whole poison. Names in the history carry the number of the member, except for the first.

  Raises:
    signals.Interrupted: A signal came; the state is saved.
    UserError: The method refuses the data, or fails.
  """
  check_classes(settings, dataset.name, dataset.num_classes)
  method, count = METHODS[settings.name], settings.ensemble
  if count == 1:
    return method.generate(dataset, settings, seed, Checkpoints(folder), progress, observer)
  delta, perturbed, seconds, history = None, [], 0.0, {}
  for member in range(count):
    logger.info("Member %d of %d.", member + 1, count)
    checkpoints = Checkpoints(folder and folder / f"member-{member + 1}")
    own = (seed * count + member) % 2**32
    made = method.generate(dataset, settings, own, checkpoints, progress, observer)
    if made.delta is not None:
      delta = made.delta if delta is None else delta
      delta[member::count] = made.delta[member::count]
    ids = np.arange(len(dataset.train)) if made.perturbed is None else made.perturbed
    perturbed.extend(ids[ids % count == member])
    seconds += made.seconds
    suffix = f" of member {member + 1}" if member else ""
    history |= {name + suffix: values for name, values in made.history.items()}
  whole = len(perturbed) == len(dataset.train)
  return Generated(delta, seconds, None if whole else np.sort(perturbed), history)
