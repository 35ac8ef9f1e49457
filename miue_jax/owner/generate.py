"""Makes perturbations: of all pictures with a new source model, or of new ones with the old one."""

import hashlib

import numpy as np

from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.images import Images
from miue_jax.experiment import calls
from miue_jax.machine import files
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.methods import METHODS
from miue_jax.methods.alternating import Alternating
from miue_jax.methods.continuation import Continuation
from miue_jax.owner.choose import Choice
from miue_jax.owner.private import Private
from miue_jax.settings.config import batch_sizes
from miue_jax.settings.errors import UserError
from miue_jax.train import pretrained

PASSES = 8  # delta passes on new pictures
_NEW_SEED = 0x6E6577  # separates the seeds of rounds from that of the generation


def first(
  choice: Choice, store: Private, small: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]
) -> np.ndarray:
  """Returns perturbations int8 `[N, s, s, 3]` of all pictures, and stores what new ones need.

  Args:
    choice: The choice.
    store: The private folder; an interrupted generation continues from there.
    small: Pictures, uint8 `[N, s, s, 3]`.
    labels: Their classes, `[N]`.
    classes: Names of the classes.

  Raises:
    UserError: A loss is not finite, or the method has no source model.
  """
  images, numbers = _paired(small, labels)
  dataset = Dataset("pictures", Split(Images(images), numbers), None, classes)
  settings = choice.method
  # Other pictures are another generation, which starts anew.
  states = store.checkpoints / dataset.fingerprint[:16]
  with calls.on_devices(*batch_sizes(settings)):
    made = METHODS[settings.name].generate(
      dataset, settings, choice.seed, Checkpoints(states), calls.reporter()
    )
  if made.source is None:
    raise UserError(f"The method {settings.name!r} has no source model for new pictures.")
  pretrained.save(made.source, store.source)
  return np.asarray(made.delta)[: len(small)]


def further(
  choice: Choice,
  store: Private,
  number: int,
  new: tuple[np.ndarray, np.ndarray],
  company: tuple[np.ndarray, np.ndarray],
  classes: tuple[str, ...],
) -> np.ndarray:
  """Returns perturbations int8 `[n, s, s, 3]` of new pictures, from what `first` stored.

  Args:
    choice: The choice of the first round.
    store: The private folder.
    number: Number of the round.
    new: New pictures, uint8 `[n, s, s, 3]`, and their classes.
    company: Published pictures and their classes.
    classes: Names of the classes.

  Raises:
    UserError: The source model is lost or damaged, or the method cannot add pictures.
  """
  if not files.exists(store.source):
    raise UserError(
      f"{store.source} is missing, and without it new pictures cannot be protected like the "
      "others: put it back, or protect into a new folder."
    )
  images, labels = _paired(*(np.concatenate(pair) for pair in zip(new, company, strict=True)))
  moving = np.arange(len(images)) < len(new[0])
  dataset = Dataset("new pictures", Split(Images(images), labels), None, classes)
  settings, seed = choice.method, _seed(choice.seed, number)
  method = METHODS[settings.name]
  if not isinstance(method, Alternating):
    raise UserError(
      f"The method {settings.name!r} cannot protect pictures that are added later: protect "
      "all of them into a new folder."
    )
  continued = Continuation(method, pretrained.load(store.source), moving, PASSES)
  with calls.on_devices(settings.batch_size):
    made = continued.generate(dataset, settings, seed, Checkpoints(None), calls.reporter())
  return np.asarray(made.delta)[: len(new[0])]


def _paired(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Repeats the picture of a class that has only one, since objectives compare pairs of a class."""
  single = np.flatnonzero(np.bincount(labels)[labels] == 1)
  return np.concatenate([images, images[single]]), np.concatenate([labels, labels[single]])


def _seed(seed: int, number: int) -> int:
  """Returns the seed of a round, 32 bits."""
  text = f"{_NEW_SEED} {seed} {number}".encode()
  return int.from_bytes(hashlib.sha256(text).digest()[:4], "big")
