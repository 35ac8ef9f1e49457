"""Makes perturbations: of all pictures with a new source model, or of new ones with the old one."""

import functools
import hashlib
import pathlib

import numpy as np

from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.images import Images
from miue_jax.experiment import calls
from miue_jax.machine import archives, files
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.progress import Progress, Reporter
from miue_jax.methods import METHODS, ensemble
from miue_jax.methods.alternating import Alternating
from miue_jax.methods.continuation import Continuation
from miue_jax.owner.choose import Choice
from miue_jax.owner.private import Private
from miue_jax.pictures import carry
from miue_jax.settings.config import batch_sizes
from miue_jax.settings.errors import UserError
from miue_jax.train import pretrained

_PASSES = 8  # delta passes on new pictures
_REPLACE = "put back the one of this protection, or protect into a new folder"
_NEW_SEED = 0x6E6577  # parts the seeds of rounds from that of the generation


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
  """
  images, numbers = _paired(_channels(choice, small), labels)
  dataset = Dataset("pictures", Split(Images(images), numbers), None, classes)
  settings = choice.method
  # Other pictures are another generation, which starts anew.
  states = store.checkpoints / dataset.fingerprint[:16]
  with calls.on_devices(*batch_sizes(settings)):
    made = ensemble.generate(dataset, settings, choice.seed, states, _progress())
  delta = np.asarray(made.delta)
  if settings.class_wise:
    with files.replacing(store.patterns) as file:
      np.savez(file, patterns=_patterns(delta, numbers, settings.ensemble, len(classes)))
  elif made.source is None:
    raise UserError(f"The method {settings.name!r} has no source model for new pictures.")
  else:
    pretrained.save(made.source, store.source)
  return _colours(delta[: len(small)])


def _channels(choice: Choice, images: np.ndarray) -> np.ndarray:
  """Returns the channels that are perturbed: of gray pictures one, in which a network sees them."""
  return carry.luma(images) if choice.gray else images


def _colours(delta: np.ndarray) -> np.ndarray:
  """Returns a perturbation with three channels, which are equal if it has one."""
  return np.broadcast_to(delta, (*delta.shape[:3], 3))


def _patterns(delta: np.ndarray, labels: np.ndarray, members: int, classes: int) -> np.ndarray:
  """Returns the pattern of each member of an ensemble for each class, `[m, K, s, s, C]`.

  A black or white pixel shows only a part of it, so the largest value of all pictures counts.
  """
  patterns = np.zeros((members, classes, *delta.shape[1:]), np.int8)
  drawn = np.zeros((members, classes), bool)
  for number, (row, label) in enumerate(zip(delta, labels, strict=True)):
    pattern = patterns[number % members, label]
    np.copyto(pattern, row, where=np.abs(row) > np.abs(pattern))
    drawn[number % members, label] = True
  # Where no picture of a class has the pattern of a member, another member's stands.
  for label in range(classes):
    patterns[~drawn[:, label], label] = patterns[np.argmax(drawn[:, label]), label]
  return patterns


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
    UserError: What `first` stored is lost or damaged.
  """
  needed = store.patterns if choice.method.class_wise else store.source
  if not files.exists(needed):
    raise UserError(
      f"{needed} is missing, and without it new pictures cannot be protected like the others: put "
      "it back, or protect into a new folder."
    )
  if choice.method.class_wise:
    return _colours(_known(needed, new[1], len(classes)))
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
  continued = Continuation(method, pretrained.load(store.source), moving, _PASSES)
  with calls.on_devices(settings.batch_size):
    made = continued.generate(dataset, settings, seed, Checkpoints(None), _progress())
  return np.asarray(made.delta)[: len(new[0])]


def _known(path: pathlib.Path, labels: np.ndarray, classes: int) -> np.ndarray:
  """Returns the stored patterns of classes, int8 `[n, s, s, C]`.

  Raises:
    UserError: The file is damaged.
  """
  patterns = archives.Archive(path, _REPLACE)["patterns"]
  if patterns.dtype != np.int8 or patterns.ndim != 5 or patterns.shape[1] != classes:
    raise UserError(f"{path} is damaged: {_REPLACE}.")
  return patterns[np.arange(len(labels)) % len(patterns), labels]


def _paired(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Repeats the picture of a class that has only one: objectives compare two of a class."""
  single = np.flatnonzero(np.bincount(labels)[labels] == 1)
  return np.concatenate([images, images[single]]), np.concatenate([labels, labels[single]])


def _progress() -> Reporter:
  return functools.partial(Progress, None, bar=calls.shows_bar(None))


def _seed(seed: int, number: int) -> int:
  """Returns the seed of a round, 32 bits."""
  text = f"{_NEW_SEED} {seed} {number}".encode()
  return int.from_bytes(hashlib.sha256(text).digest()[:4], "big")
