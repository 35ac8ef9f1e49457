"""Draws the patterns of gray pictures: random signs of a few pixels for each class, which repeat.

Radiographs and scans of one class are alike: networks learn them whatever is added to each, but not
if all of a class get one pattern that they notice first. A pattern that repeats every few pixels
looks the same wherever a network crops, and one that no network made depends on none of them
(docs/protect.md compares them).
"""

import hashlib
import itertools

import numpy as np

from miue_jax import budget
from miue_jax.owner.choose import Choice

_SIDE = 4  # pixels
_FEW = 12  # classes; of more, 4 x 4 pixels have too few patterns that are unlike each other
_LARGER = 8  # pixels
_ALIKE = 0.5  # correlation of two patterns, at most, however they are shifted or mirrored
_TRIES = 200


def perturbations(choice: Choice, labels: np.ndarray, classes: int) -> np.ndarray:
  """Returns the perturbations of pictures, int8 `[N, s, s, 3]`.

  Args:
    choice: The choice; its seed, which the key holds, draws the patterns.
    labels: Classes of the pictures, `[N]`.
    classes: Number of classes.
  """
  patterns = drawn(classes, choice.seed)
  repeats = -(-choice.size // patterns.shape[1])
  whole = np.tile(budget.budget(choice.method.epsilon) * patterns, (1, repeats, repeats))
  whole = whole[:, : choice.size, : choice.size, None].astype(np.int8)
  return np.broadcast_to(whole, (*whole.shape[:3], 3))[labels]


def drawn(classes: int, seed: int) -> np.ndarray:
  """Returns patterns of -1 and 1, `[classes, h, h]`, as many of each, which no shift makes alike.

  Pictures are added in later years, and must then get the pattern of their class: a change of this
  function needs another name in the settings of the key.
  """
  side = _SIDE if classes <= _FEW else _LARGER
  found = np.empty((0, side, side), int)
  while len(found) < classes:
    tried = []
    for number in range(_TRIES):
      pattern = _signs(side, f"{seed} {len(found)} {number}")
      tried.append((_likeness(pattern, found), number, pattern))
      if tried[-1][0] <= _ALIKE:
        break
    *_, best = min(tried)  # numbers differ, so that patterns are not compared
    found = np.concatenate([found, best[None]])
  return found


def _signs(side: int, text: str) -> np.ndarray:
  """Returns as many -1 as 1, `[side, side]`, in an order that a hash decides."""
  draws = np.frombuffer(hashlib.shake_256(text.encode()).digest(8 * side**2), "<u8")
  signs = np.where(np.arange(side**2) % 2, 1, -1)
  return signs[np.argsort(draws, kind="stable")].reshape(side, side)


def _likeness(pattern: np.ndarray, others: np.ndarray) -> float:
  """Returns the largest correlation of a pattern, shifted or mirrored, with one of the others."""
  if not len(others):
    return 0.0
  side = len(pattern)
  moved = [
    np.roll(mirrored, shift, axis=(0, 1)).ravel()
    for mirrored in (pattern, pattern[:, ::-1])
    for shift in itertools.product(range(side), repeat=2)
  ]
  return float(np.abs(np.stack(moved) @ others.reshape(len(others), -1).T).max() / side**2)
