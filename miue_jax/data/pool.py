"""What a source hands over: labels at once, pixels on demand.

Classes, subsets and the held-out split are chosen from labels alone, so that an image that is not
wanted is never decoded.
"""

import dataclasses
import enum
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Pool:
  """One split before its pixels are read.

  Attributes:
    labels: int64 `[N]`.
    read: maps int64 indices `[n]` to uint8 images `[n, height, width, channel]`, resized.
    files: as in `dataset.Split`.
  """

  labels: np.ndarray
  read: Callable[[np.ndarray], np.ndarray]
  files: tuple[str, ...] | None = None

  def __len__(self) -> int:
    return len(self.labels)

  def take(self, indices: np.ndarray) -> "Pool":
    """Returns the pool of these examples, in this order."""
    files = None if self.files is None else tuple(self.files[i] for i in indices)
    return Pool(self.labels[indices], lambda chosen: self.read(indices[chosen]), files)

  def relabelled(self, new_label: np.ndarray) -> "Pool":
    """Returns the pool with every label k replaced by `new_label[k]`."""
    return dataclasses.replace(self, labels=new_label[self.labels])


@dataclasses.dataclass(frozen=True)
class Pools:
  """A source: its training pool, its test pool if it has one, and the names of its classes."""

  name: str
  train: Pool
  test: Pool | None
  class_names: tuple[str, ...]


class Draw(enum.IntEnum):
  """What a stratified draw is for, so that no two draws share their random words."""

  HELD_OUT = 0
  TRAIN = 1
  TEST = 2
  SAMPLE = 3
  PERTURBED = 4
  CLEAN = 5


def stratified(labels: np.ndarray, count: int, seed: int, draw: Draw) -> np.ndarray:
  """Draws `count` examples so that every class keeps its share.

  Class k of size n_k out of N gets floor(count * n_k / N) examples, and the largest remainders get
  one more. For one seed a smaller draw of a class is contained in a larger one.

  Args:
    labels: non-negative integers `[N]`.
    count: how many to draw, in 0..N.
    seed: the user's.
    draw: its purpose.

  Returns:
    Ascending int64 indices `[count]`.
  """
  sizes = np.bincount(labels)
  quotas, remainders = np.divmod(sizes * count, len(labels))
  quotas[np.argsort(-remainders, kind="stable")[: count - quotas.sum()]] += 1
  # Raw words of PCG64 are the same in every version of NumPy; Generator.permutation need not be.
  words = np.random.PCG64((seed, draw)).random_raw(len(labels))
  order = np.lexsort((words, labels))
  rank_in_class = np.empty(len(labels), np.int64)
  rank_in_class[order] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
  return np.flatnonzero(rank_in_class < quotas[labels])
