"""Provides pairs of random variables whose mutual information is known exactly.

The families follow Czyz, Grabowski, Vogt, Beerenwinkel and Marx, "Beyond Normal: On the Evaluation
of Mutual Information Estimators" (NeurIPS 2023): normal, Student-t and additive uniform pairs, and
their images under one-to-one maps of each side, which do not change the information.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import special

from benchmarks import closed_forms

Pair = tuple[np.ndarray, np.ndarray]
Map = Callable[[np.ndarray], np.ndarray]  # one-to-one


@dataclasses.dataclass(frozen=True)
class Task:
  """A joint distribution with known mutual information.

  Attributes:
    name: Name in tables.
    truth: Mutual information in nats.
    draw: Sampler, `(rng, samples) -> (x [samples, dx], y [samples, dy])`.
  """

  name: str
  truth: float
  draw: Callable[[np.random.Generator, int], Pair]


def dense(features: int, rho: float = 0.5) -> np.ndarray:
  """Returns a covariance with unit variances in which all variables correlate by `rho`."""
  size = 2 * features
  return np.full((size, size), rho) + (1 - rho) * np.eye(size)


def paired(features: int, rho: float = 0.8, pairs: int = 2) -> np.ndarray:
  """Returns a covariance in which only x_i and y_i correlate, by `rho`, for the first `pairs`."""
  covariance = np.eye(2 * features)
  for i in range(min(pairs, features)):
    covariance[i, features + i] = covariance[features + i, i] = rho
  return covariance


def normal(name: str, covariance: np.ndarray) -> Task:
  """Returns a normal pair with as many features in x as in y."""
  features = len(covariance) // 2
  root = np.linalg.cholesky(covariance)

  def draw(rng: np.random.Generator, samples: int) -> Pair:
    both = rng.standard_normal((samples, len(covariance))) @ root.T
    return both[:, :features], both[:, features:]

  return Task(name, closed_forms.normal(covariance, features), draw)


def student(name: str, dispersion: np.ndarray, dof: int) -> Task:
  """Returns a Student-t pair: a normal pair over the root of one chi-squared variable per `dof`."""
  features = len(dispersion) // 2
  normally = normal("", dispersion).draw

  def draw(rng: np.random.Generator, samples: int) -> Pair:
    x, y = normally(rng, samples)
    scale = np.sqrt(rng.chisquare(dof, (samples, 1)) / dof)
    return x / scale, y / scale

  return Task(name, closed_forms.student(dispersion, features, dof), draw)


def additive(width: float) -> Task:
  """Returns the pair X ~ U(0, 1) and Y = X + U(-width, width)."""

  def draw(rng: np.random.Generator, samples: int) -> Pair:
    x = rng.random((samples, 1))
    return x, x + rng.uniform(-width, width, (samples, 1))

  return Task(f"additive uniform {width}", closed_forms.additive_uniform(width), draw)


def mapped(name: str, task: Task, x_map: Map, y_map: Map) -> Task:
  """Returns a task whose two sides pass through one-to-one maps."""

  def draw(rng: np.random.Generator, samples: int) -> Pair:
    x, y = task.draw(rng, samples)
    return x_map(x), y_map(y)

  return Task(name, task.truth, draw)


def half_cube(x: np.ndarray) -> np.ndarray:
  """Returns `sign(x) |x|^(3/2)`, which has long tails."""
  return np.sign(x) * np.abs(x) ** 1.5


def wiggly(x: np.ndarray) -> np.ndarray:
  """Stretches unevenly; the derivative is between 0.22 and 1.78, so the map is one-to-one."""
  return x + 0.4 * np.sin(x) + 0.19 * np.sin(2 * x + 1)


def bimodal(x: np.ndarray) -> np.ndarray:
  """Maps a standard normal variable to the mixture 0.3 N(-2, 0.5^2) + 0.7 N(1, 1), by quantiles."""
  grid = np.linspace(-8, 8, 20_001)
  shares = 0.3 * special.ndtr((grid + 2) / 0.5) + 0.7 * special.ndtr(grid - 1)
  strictly = np.concatenate([[True], np.diff(shares) > 0])
  return np.interp(special.ndtr(x), shares[strictly], grid[strictly])


def swiss_roll(x: np.ndarray) -> np.ndarray:
  """Maps a standard normal variable `[samples, 1]` onto a spiral in the plane `[samples, 2]`."""
  angle = 1.5 * np.pi * (1 + 2 * special.ndtr(x))
  return np.hstack([angle * np.cos(angle), angle * np.sin(angle)]) / (4.5 * np.pi)


def spiral(x: np.ndarray) -> np.ndarray:
  """Rotates the first two features by `|x|^2 / features` radians, which keeps all lengths."""
  angle = (x**2).sum(axis=1) / x.shape[1]
  cos, sin = np.cos(angle), np.sin(angle)
  turned = x.copy()
  turned[:, 0] = cos * x[:, 0] - sin * x[:, 1]
  turned[:, 1] = sin * x[:, 0] + cos * x[:, 1]
  return turned


_BIVARIATE = normal("normal 1 x 1, rho 0.75", paired(1, 0.75))
_ROLLED = normal("", paired(1, 0.9))

TASKS: tuple[Task, ...] = (
  normal("independent 1 x 1", paired(1, 0.0)),
  normal("normal 1 x 1, rho 0.5", paired(1, 0.5)),
  _BIVARIATE,
  normal("normal 1 x 1, rho 0.95", paired(1, 0.95)),
  additive(0.1),
  additive(0.75),
  mapped("uniform margins 1 x 1", _BIVARIATE, special.ndtr, special.ndtr),
  mapped("wiggly 1 x 1", _BIVARIATE, wiggly, wiggly),
  mapped("half-cube 1 x 1", _BIVARIATE, half_cube, half_cube),
  mapped("bimodal 1 x 1", _BIVARIATE, bimodal, bimodal),
  mapped("swiss roll 2 x 1", _ROLLED, swiss_roll, special.ndtr),
  student("Student 1 x 1, 1 dof", paired(1, 0.0), 1),
  mapped("asinh Student 1 x 1, 1 dof", student("", paired(1, 0.0), 1), np.arcsinh, np.arcsinh),
  normal("dense normal 2 x 2", dense(2)),
  normal("dense normal 3 x 3", dense(3)),
  normal("dense normal 5 x 5", dense(5)),
  normal("dense normal 25 x 25", dense(25)),
  normal("dense normal 50 x 50", dense(50)),
  normal("2-pair normal 2 x 2", paired(2)),
  normal("2-pair normal 3 x 3", paired(3)),
  normal("2-pair normal 5 x 5", paired(5)),
  normal("2-pair normal 25 x 25", paired(25)),
  normal("16-pair normal 16 x 16", paired(16, 0.5, 16)),
  student("Student 2 x 2, 2 dof", paired(2), 2),
  student("Student 3 x 3, 3 dof", paired(3), 3),
  student("Student 5 x 5, 2 dof", paired(5), 2),
  mapped("asinh Student 3 x 3, 2 dof", student("", paired(3), 2), np.arcsinh, np.arcsinh),
  mapped("half-cube 25 x 25", normal("", paired(25)), half_cube, half_cube),
  mapped("uniform margins 5 x 5", normal("", paired(5)), special.ndtr, special.ndtr),
  mapped("spiral 3 x 3", normal("", paired(3)), spiral, np.asarray),
  mapped("spiral 5 x 5", normal("", paired(5)), spiral, spiral),
)
