"""LSP: linearly separable perturbations (Yu et al., "Availability Attacks Create Shortcuts", 2022).

  m     <- corner of {-10, 10}^d, different for each class        d: patches x channels
  A     <- d x d numbers from U(-1, 1)
  z     ~ m_y + A N(0, I)                                         a Gaussian cluster for each class
  delta <- each entry of z fills a patch of 8 x 8 pixels; scaled to its budget

The authors draw the clusters with scikit-learn's `make_classification`, which has one A for each
class. Here all classes share A, since separate ones would take gigabytes for large images. The
budget is ||delta||_2 = 6/255 sqrt(H W C): `norm="l2"` with `epsilon=6/255`.
"""

import numpy as np

from miue_jax.data.dataset import Dataset
from miue_jax.methods.pattern import Draw, to_budget
from miue_jax.methods.shared_settings import Norm, PatternSettings
from miue_jax.settings.errors import UserError
from miue_jax.settings.schema import Epsilon, settings

PATCH = 8  # pixels
_SEPARATION = 10.0  # distance of a corner from the origin along every axis


@settings
class Settings(PatternSettings):
  """Settings of LSP, with the values of the paper."""

  name: str = "lsp"
  norm: Norm = "l2"
  epsilon: Epsilon = 6 / 255


def pattern(dataset: Dataset, settings: Settings, seed: int) -> Draw:
  """Returns the function that draws patches from the cluster of every class.

  Raises:
    UserError: The images have too few patches for that many classes.
  """
  height, width, channels = dataset.train.images.shape[1:]
  grid = (-(-height // PATCH), -(-width // PATCH), channels)
  generator = np.random.default_rng(seed)
  corners = _corners(generator, dataset.num_classes, int(np.prod(grid)))
  spread = generator.uniform(-1, 1, (corners.shape[1],) * 2).astype(np.float32)

  def draw(generator, images, labels):
    normal = generator.standard_normal((len(labels), corners.shape[1]), np.float32)
    points = corners[labels] + normal @ spread
    patches = points.reshape(-1, *grid).repeat(PATCH, axis=1).repeat(PATCH, axis=2)
    return to_budget(patches[:, :height, :width], settings.epsilon, settings.norm)

  return draw


def _corners(generator: np.random.Generator, classes: int, dimensions: int) -> np.ndarray:
  """Returns different corners of a hypercube, float32 `[classes, dimensions]`."""
  if classes > 2**dimensions:
    raise UserError(
      f"LSP has {2**dimensions} patterns for images of this size, not {classes}: enlarge the "
      "images (data.size) or choose another method."
    )
  corners = np.empty((0, dimensions), bool)
  while len(corners) < classes:
    drawn = generator.random((classes, dimensions)) < 0.5
    corners = np.unique(np.concatenate([corners, drawn]), axis=0)
  # `unique` sorts: without a permutation, neighbours would share their first entries.
  corners = generator.permutation(corners)[:classes]
  return _SEPARATION * (2 * corners.astype(np.float32) - 1)
