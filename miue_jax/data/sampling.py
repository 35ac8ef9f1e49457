"""Draws examples so that every class keeps its share."""

import enum

import chex
import numpy as np


class Draw(enum.IntEnum):
  """Names the purpose of a draw; with one seed, draws for different purposes are independent."""

  HELD_OUT = 0
  TRAIN = 1
  TEST = 2
  SAMPLE = 3
  PERTURBED = 4
  CLEAN = 5


def stratified(labels: np.ndarray, count: int, seed: int, draw: Draw) -> np.ndarray:
  """Draws `count` examples so that every class keeps its share.

  Class k with n_k of N examples gets floor(count * n_k / N) examples, and the classes with the
  largest remainders get one more. With the same seed, a smaller draw from a class is contained in a
  larger one.

  Args:
    labels: Non-negative integers `[N]`.
    count: Number of examples to draw, in 0..N.
    seed: Seed of the user.
    draw: Purpose of the draw.

  Returns:
    Ascending int64 indices `[count]`.
  """
  chex.assert_rank(labels, 1)
  sizes = np.bincount(labels)
  quotas, remainders = np.divmod(sizes * count, len(labels))
  quotas[np.argsort(-remainders, kind="stable")[: count - quotas.sum()]] += 1
  # Raw words of PCG64 are the same in every version of NumPy; Generator.permutation need not be.
  words = np.random.PCG64((seed, draw)).random_raw(len(labels))
  order = np.lexsort((words, labels))
  rank_in_class = np.empty(len(labels), np.int64)
  rank_in_class[order] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
  return np.flatnonzero(rank_in_class < quotas[labels])
