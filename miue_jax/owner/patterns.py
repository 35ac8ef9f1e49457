"""Draws patterns of random signs, one for each class, which repeat after a few of them.

Gray pictures and larger ones in colour get them. Networks learn from such pictures whatever is
added to each, but they learn less if all pictures of a class share a pattern, which they learn
first. A repeating pattern looks the same in every crop, and one that no network made depends on no
network. Convolutional networks soon tell classes apart if the noise of each class has a different
autocorrelation (Sandoval-Segura et al., "Autoregressive Perturbations for Data Poisoning", NeurIPS
2022). docs/folders.md compares patterns.
"""

import hashlib
import itertools

import numpy as np

from miue_jax import budget
from miue_jax.owner.choose import Choice

# Measured results for gray pictures (docs/folders.md).
GRAY = (
  "All gray pictures of a class get the same pattern. From protected X-rays of 28 x 28 pixels "
  "networks mostly did no better than guessing the class, but ranked X-rays better than chance "
  "(an AUC of 0.80, where 0.5 is guessing). The pattern repeats, and anyone who knows that can "
  "subtract it: networks then ranked X-rays as if they had learned from originals (0.95)."
)
_SIDE = 4  # signs
_FEW = 80  # classes; for more, 4 x 4 signs give too few patterns that networks tell apart
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
  """Returns the period of the patterns of a choice, in pixels of what victims see."""
  return _side(classes) * choice.block * choice.seen // choice.size


def drawn(classes: int, seed: int) -> np.ndarray:
  """Returns patterns of -1 and 1, `[classes, h, h]`, with equal numbers of both.

  Networks can tell them apart: each class gets, of many draws, the pattern whose autocorrelation at
  small shifts differs most from those of the earlier classes and from zero.

  Pictures that are added years later must get the pattern of their class. A change of this function
  therefore needs another name in `choose`, which keys store.
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
  """Returns patterns with as many -1 as 1, `[tries, side, side]`, in orders drawn from a hash."""
  draws = hashlib.shake_256(text.encode()).digest(8 * _TRIES * side**2)
  orders = np.frombuffer(draws, "<u8").reshape(_TRIES, -1).argsort(axis=1, kind="stable")
  return np.where(np.arange(side**2) % 2, 1, -1)[orders].reshape(_TRIES, side, side)


def _autocorrelation(patterns: np.ndarray) -> np.ndarray:
  """Returns the autocorrelation of repeating patterns at small shifts, averaged over mirror images.

  The average response of an untrained network's filters to a pattern depends on nothing else.
  """
  power = np.abs(np.fft.fft2(patterns)) ** 2
  found = np.fft.ifft2(power).real / patterns[0].size
  rows, columns = _NEAR.T
  return (found[:, rows, columns] + found[:, rows, -columns]) / 2
