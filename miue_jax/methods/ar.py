"""AR: autoregressive perturbations (Sandoval-Segura et al., NeurIPS 2022).

  for every class and channel:  b <- 3 x 3 numbers from N(0, 1), the last one 0, with sum 1,
                                drawn again while its signals diverge
  for every image and channel:  start from N(0, 1); slide a window over it, row by row, and set its
                                last pixel to sum_ij b_ij x_ij; drop the first 4 rows and columns
  delta <- the rest, scaled to its budget

The response of a filter with the entries b, and -1 in the last place, to a perturbation of its
class is exactly zero. A convolutional network learns such filters. To separate the classes, every
filter should respond strongly to the perturbations of other classes. The authors accept a process
if its responses exceed a threshold that depends on the number of classes. Here each class takes,
from a pool, the process whose weakest response to the processes chosen before it is strongest.

The authors' budget is ||delta||_2 = 1 at 32 x 32 x 3 and proportional to the side: `norm="l2"` with
`epsilon=1 / (32 sqrt(3))`, 4.6/255.
"""

import math

import numpy as np

from miue_jax.data.dataset import Dataset
from miue_jax.methods.pattern import Draw, to_budget
from miue_jax.methods.shared_settings import Norm, PatternSettings
from miue_jax.settings.schema import Epsilon, settings

_CROP = 4  # rows and columns that still depend on the start
_LARGEST = 5.0  # absolute value that a stable signal does not exceed
_TRIALS = 3  # signals that must stay below it
_DRAWN = 128  # processes drawn at a time
_POOL = 4  # processes to choose from, for each class
_WINDOWS = 30  # about this many windows along each axis of a signal give the response of a filter


@settings
class Settings(PatternSettings):
  """Settings of AR, with the values of the paper."""

  name: str = "ar"
  norm: Norm = "l2"
  epsilon: Epsilon = 1 / math.sqrt(32 * 32 * 3)  # length 1 at 32 x 32 x 3


def pattern(dataset: Dataset, settings: Settings, seed: int) -> Draw:
  """Returns the function that draws signals of the process of every class."""
  shape = dataset.train.images.shape[1:]
  processes = find_processes(np.random.default_rng(seed), dataset.num_classes, shape)

  def draw(generator, images, labels):
    signals = slide(generator, processes[labels], images.shape[1:3])
    return to_budget(signals, settings.epsilon, settings.norm)

  return draw


def find_processes(
  generator: np.random.Generator, classes: int, shape: tuple[int, int, int]
) -> np.ndarray:
  """Returns the coefficients of every class, float32 `[classes, channels, 3, 3]`."""
  pool = _stable(generator, _POOL * classes * shape[2], shape[:2])
  pool = pool.reshape(-1, shape[2], 3, 3)
  answers = responses(pool, to_budget(slide(generator, pool, shape[:2]), 1.0, "l2"))
  answers = np.minimum(answers, answers.T)
  picked, weakest = [0], answers[0]
  while len(picked) < classes:
    picked.append(int(np.argmax(weakest)))
    weakest = np.minimum(weakest, answers[picked[-1]])
  return pool[picked]


def _stable(generator: np.random.Generator, count: int, size: tuple[int, int]) -> np.ndarray:
  """Returns random coefficients `[count, 3, 3]` whose signals stay small in a whole image."""
  found = np.empty((0, 3, 3), np.float32)
  # Signals that diverge overflow.
  with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
    while len(found) < count:
      drawn = generator.standard_normal((_DRAWN, 3, 3), np.float32)
      drawn[:, 2, 2] = 0
      drawn /= drawn.sum(axis=(1, 2), keepdims=True)
      trials = np.broadcast_to(drawn[:, None], (_DRAWN, _TRIALS, 3, 3))
      largest = np.abs(slide(generator, trials, size)).max(axis=(1, 2, 3))
      found = np.concatenate([found, drawn[largest <= _LARGEST]])
  return found[:count]


def slide(
  generator: np.random.Generator, processes: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
  """Returns one signal of each process, from independent random starts.

  Args:
    generator: Source of the starts.
    processes: Coefficients, float32 `[n, C, 3, 3]`.
    size: Height and width in pixels.

  Returns:
    Signals before scaling, float32 `[n, H, W, C]`.
  """
  height, width = size[0] + _CROP, size[1] + _CROP
  # Pixels are the first axes, so that the values of all images at a pixel are contiguous.
  signals = generator.standard_normal((height, width, *processes.shape[:2]), np.float32)
  weights = np.ascontiguousarray(processes.transpose(2, 3, 0, 1))
  for row in range(2, height):
    for column in range(2, width):
      window = signals[row - 2 : row + 1, column - 2 : column + 1]
      signals[row, column] = np.einsum("ijnc,ijnc->nc", weights, window)
  return signals[_CROP:, _CROP:].transpose(2, 0, 1, 3)


def matching_filters(processes: np.ndarray) -> np.ndarray:
  """Returns filters `[n, C, 3, 3]`, one for each process, whose response to its signals is zero."""
  filters = processes.copy()
  filters[:, :, 2, 2] = -1
  return filters


def responses(processes: np.ndarray, signals: np.ndarray) -> np.ndarray:
  """Returns the response of the filter of process i to signal j, `[n, n]`.

  It is the mean over windows of max(0, r), where r is the filter's output, summed over channels.

  Args:
    processes: Coefficients `[n, C, 3, 3]`.
    signals: Signals `[n, H, W, C]`.
  """
  filters = matching_filters(processes).reshape(len(processes), -1)
  windows = np.lib.stride_tricks.sliding_window_view(signals, (3, 3), axis=(1, 2))
  rows, columns = (max(1, side // _WINDOWS) for side in windows.shape[1:3])
  windows = windows[:, ::rows, ::columns]
  return np.stack(
    [
      np.maximum(0, window.reshape(-1, filters.shape[1]) @ filters.T).mean(axis=0)
      for window in windows
    ],
    axis=1,
  )
