"""Draws patterns of random signs, one for each class, which repeat after a few of them.

Gray pictures and larger ones in colour get them. Networks learn such pictures whatever is added to
each, but less if all of a class get one pattern that they notice first. A pattern that repeats
looks the same wherever a network crops, and one that no network made depends on none of them.
Convolutions tell classes apart at once if the noise of each has another autocorrelation (Sandoval-
Segura et al., "Autoregressive Perturbations for Data Poisoning", NeurIPS 2022). docs/folders.md
compares patterns.
"""

import hashlib
import itertools

import numpy as np

from miue_jax import budget
from miue_jax.owner.choose import Choice

_SIDE = 4  # signs
_FEW = 80  # classes; of more, 4 x 4 signs have too few patterns that networks tell apart
_LARGER = 8  # signs
_TRIES = 1000
# Shifts within the window of two convolutions of 3 x 3 pixels.
_NEAR = np.array(list(itertools.product(range(-2, 3), repeat=2)))


def perturbations(choice: Choice, labels: np.ndarray, classes: int) -> np.ndarray:
  """Returns the perturbations of pictures, int8 `[N, s, s, 3]`.

  Args:
    choice: The choice; its seed, which the key holds, draws the patterns.
    labels: Classes of the pictures, `[N]`.
    classes: Number of classes.
  """
  patterns = drawn(classes, choice.seed).repeat(choice.block, axis=1).repeat(choice.block, axis=2)
  repeats = -(-choice.size // patterns.shape[1])
  whole = np.tile(budget.budget(choice.method.epsilon) * patterns, (1, repeats, repeats))
  whole = whole[:, : choice.size, : choice.size, None].astype(np.int8)
  return np.broadcast_to(whole, (*whole.shape[:3], 3))[labels]


def period(choice: Choice, classes: int) -> int:
  """Returns after how many pixels, of what victims see, the patterns of a choice repeat."""
  return _side(classes) * choice.block * choice.seen // choice.size


def drawn(classes: int, seed: int) -> np.ndarray:
  """Returns patterns of -1 and 1, `[classes, h, h]`, as many of each, that networks tell apart.

  Of many draws, a class gets the one whose autocorrelation over near pixels differs most from those
  of the other classes and from none.

  Pictures are added in later years, and must then get the pattern of their class: a change of this
  function needs another name in `choose`, which the key has.
  """
  side = _side(classes)
  found, known = [], [np.zeros(len(_NEAR))]
  for number in range(classes):
    tried = _signs(side, f"{seed} {number}")
    near = _autocorrelation(tried)
    distances = np.min([np.linalg.norm(near - other, axis=1) for other in known], axis=0)
    best = int(distances.round(6).argmax())  # rounding must not decide between equal ones
    found.append(tried[best])
    known.append(near[best])
  return np.stack(found)


def _side(classes: int) -> int:
  return _SIDE if classes <= _FEW else _LARGER


def _signs(side: int, text: str) -> np.ndarray:
  """Returns patterns of as many -1 as 1, `[tries, side, side]`, in orders that a hash decides."""
  draws = hashlib.shake_256(text.encode()).digest(8 * _TRIES * side**2)
  orders = np.frombuffer(draws, "<u8").reshape(_TRIES, -1).argsort(axis=1, kind="stable")
  return np.where(np.arange(side**2) % 2, 1, -1)[orders].reshape(_TRIES, side, side)


def _autocorrelation(patterns: np.ndarray) -> np.ndarray:
  """Returns the autocorrelation of repeating patterns, mean of both mirror images, at near shifts.

  The filters of untrained networks respond to a pattern by no more than it, wherever they look.
  """
  power = np.abs(np.fft.fft2(patterns)) ** 2
  found = np.fft.ifft2(power).real / patterns[0].size
  rows, columns = _NEAR.T
  return (found[:, rows, columns] + found[:, rows, -columns]) / 2
