"""A poison of several members: made one by one from seeds of their own, dealt to images in turn.

Where one pattern marks a class, victims learn a single trait of images; patterns that were not made
together have less in common. docs/medical.md shows what that changes.
"""

import dataclasses
import pathlib

import numpy as np
from absl import logging

from miue_jax.data.dataset import Dataset
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.progress import Reporter
from miue_jax.methods import METHODS
from miue_jax.methods.generated import Generated
from miue_jax.settings.config import Config


def generate(
  dataset: Dataset, config: Config, folder: pathlib.Path, progress: Reporter
) -> Generated:
  """Makes the poison of `config.method`: image `i` gets that of member `i % members`.

  Args:
    dataset: only its training split is used.
    config: member `m` of `method.members` has the seed `seed * members + m`.
    folder: for checkpoints. A finished member resumes at its end, so none is made twice.
    progress: makes the reporter of a stage.

  Returns:
    The whole poison; what the history says of a member carries its number from the second on.

  Raises:
    runtime.Interrupted: a signal came; the state is saved.
    UserError: what the method says.
  """
  make, count = METHODS[config.method.name], config.method.members
  if count == 1:
    return make(dataset, config, Checkpoints(folder), progress)
  delta, perturbed, seconds, history = None, [], 0.0, {}
  for member in range(count):
    logging.info("Member %d of %d.", member + 1, count)
    seeded = dataclasses.replace(config, seed=config.seed * count + member)
    made = make(dataset, seeded, Checkpoints(folder / f"member-{member + 1}"), progress)
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
