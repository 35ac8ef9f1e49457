"""Draws the patterns of gray pictures: random signs of a few pixels for each class, which repeat.

Radiographs and scans of one class are alike: networks learn them whatever is added to each, but not
if all of a class get one pattern that they notice first. A pattern that repeats every few pixels
looks the same wherever a network crops, and one that no network made depends on none of them
(docs/protect.md compares them).
"""

import itertools

import numpy as np

from miue_jax import budget
from miue_jax.owner.choose import Choice

_SIDE = 4  # pixels
_ALIKE = 0.5  # correlation of two patterns, at most, however they are shifted or mirrored
_TRIES = 200


def perturbations(choice: Choice, labels: np.ndarray, classes: int) -> np.ndarray:
  """Returns the perturbations of pictures, int8 `[N, s, s, 3]`.

  Args:
    choice: The choice; its seed, which the key holds, draws the patterns.
    labels: Classes of the pictures, `[N]`.
    classes: Number of classes.
  """
  strength = budget.budget(choice.method.epsilon)
  repeats = -(-choice.size // _SIDE)
  whole = np.tile(strength * drawn(classes, choice.seed), (1, repeats, repeats))
  whole = whole[:, : choice.size, : choice.size, None].astype(np.int8)
  return np.broadcast_to(whole, (*whole.shape[:3], 3))[labels]


def drawn(classes: int, seed: int) -> np.ndarray:
  """Returns patterns of -1 and 1, `[classes, 4, 4]`, as many of each, which no shift makes alike.

  With very many classes some are more alike: the least alike of the drawn ones is then taken.
  """
  rng = np.random.default_rng(seed)
  half = np.repeat([-1, 1], _SIDE**2 // 2)
  found = np.empty((0, _SIDE, _SIDE), int)
  while len(found) < classes:
    tried = []
    for _ in range(_TRIES):
      pattern = rng.permutation(half).reshape(_SIDE, _SIDE)
      tried.append((_likeness(pattern, found), pattern))
      if tried[-1][0] <= _ALIKE:
        break
    best = min(tried, key=lambda pair: pair[0])[1]
    found = np.concatenate([found, best[None]])
  return found


def _likeness(pattern: np.ndarray, others: np.ndarray) -> float:
  """Returns the largest correlation of a pattern, shifted or mirrored, with one of the others."""
  if not len(others):
    return 0.0
  moved = [
    np.roll(mirrored, shift, axis=(0, 1))
    for mirrored in (pattern, pattern[:, ::-1])
    for shift in itertools.product(range(_SIDE), repeat=2)
  ]
  return float(np.abs(np.einsum("mij,nij->mn", np.stack(moved), others)).max() / _SIDE**2)
