"""Measures the right-hand side of Theorem 5.1 (Zhu et al., ICLR 2026), term by term.

For poisoned features g(X') of dimension d whose distribution in class Y is within a divergence
(Kullback-Leibler) eps of N(mu_Y, Sigma_Y),

  I(g(X); g(X')) <= d/2 ln(2 pi e) + 1/2 E_Y ln det Sigma_Y + H(g(X')|g(X)) + E_Y C_Y sqrt(eps)

The first two terms, and a lower bound of eps, can be measured. H(g(X')|g(X)) cannot: a poisoned
image is a function of the clean one, so for continuous features it is minus infinity unless the
model adds noise. The theorem does not give the constants C_Y as numbers.
"""

import dataclasses

import numpy as np
from jax.typing import ArrayLike
from scipy import stats
from sklearn import covariance

from miue_jax.information import projection, samples
from miue_jax.settings.errors import UserError

MIN_SAMPLES = 8  # of a class


NOTE = (
  "Covariances are shrunk towards a multiple of the identity by Ledoit and Wolf's rule; the "
  "divergence is a lower bound of eps from one-dimensional projections; H(g(X')|g(X)) and C_Y are "
  "not measured, so this is not a bound of the information in nats: compare it between models of "
  "one architecture."
)


@dataclasses.dataclass(frozen=True)
class Terms:
  """The geometry of the features of a class, or means over classes weighted by their size.

  Attributes:
    half_log_det: `1/2 ln det` of the shrunk covariance (nats).
    intra_cosine: Mean cosine similarity of two different examples of the class.
    inter_cosine: Mean cosine similarity of one example with one of another class; None where there
      is no other class.
    effective_rank: Exponential of the entropy of the normalised spectrum (Roy and Vetterli 2007);
      0 where the class has a single feature vector.
    divergence: Mean over random directions of the divergence of the projected class from a normal
      with its mean and variance (nats): a lower bound of the class's eps, 0 for a normal class.
  """

  half_log_det: float
  intra_cosine: float
  inter_cosine: float | None
  effective_rank: float
  divergence: float


@dataclasses.dataclass(frozen=True)
class ClassTerms(Terms):
  """The geometry of the features of one class.

  Attributes:
    label: Label of the class.
    samples: Number of its examples.
    shrinkage: Share of the scaled identity in the shrunk covariance, by Ledoit and Wolf's rule: 0
      is the empirical covariance, and near 1 `half_log_det` says little beyond the total variance.
    spectrum: Eigenvalues of the empirical covariance, largest first; at most `samples - 1` are not
      zero.
  """

  label: int
  samples: int
  shrinkage: float
  spectrum: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Bound(Terms):
  """The measurable terms of Theorem 5.1; `NOTE` says what is not measured.

  Attributes:
    dimension: `d/2 ln(2 pi e)`, in nats.
    classes: The terms of each class.
    skipped: Labels with fewer than `MIN_SAMPLES` examples, which are in no term.
  """

  dimension: float
  classes: tuple[ClassTerms, ...]
  skipped: tuple[int, ...]


def bound(features: ArrayLike, labels: ArrayLike, *, directions: int = 128, seed: int = 0) -> Bound:
  """Returns the terms of the bound of Theorem 5.1, with the geometry of every class.

  Args:
    features: Features of poisoned images (or of clean ones, to compare), `[samples, d]`.
    labels: Integer labels `[samples]`.
    directions: Number of random unit directions for the divergence.
    seed: Seed of the directions.

  Raises:
    UserError: The shapes do not fit, the features hold NaN or infinity, no class has `MIN_SAMPLES`
      examples, or `directions` or `seed` is out of range.
  """
  samples.whole("seed", seed, 0)
  samples.whole("directions", directions, 1)
  features, labels, measured = _measured(features, labels)
  present = np.unique(labels)
  cosines = _cosines(features, labels)
  classes = tuple(
    _geometry(features[labels == label], int(label), cosines[label], directions, seed)
    for label in measured
  )

  def mean(name: str) -> float:
    values = [getattr(one, name) for one in classes]
    return float(np.average(values, weights=[one.samples for one in classes]))

  return Bound(
    half_log_det=mean("half_log_det"),
    intra_cosine=mean("intra_cosine"),
    inter_cosine=mean("inter_cosine") if len(present) > 1 else None,
    effective_rank=mean("effective_rank"),
    divergence=mean("divergence"),
    dimension=features.shape[1] / 2 * float(np.log(2 * np.pi * np.e)),
    classes=classes,
    skipped=tuple(int(label) for label in np.setdiff1d(present, measured)),
  )


def covariance_term(features: ArrayLike, labels: ArrayLike) -> float:
  """Returns `1/2 E_Y ln det Sigma_Y` of features `[samples, d]` as `bound`, but in less time.

  Raises:
    UserError: As in `bound`.
  """
  features, labels, measured = _measured(features, labels)
  classes = [features[labels == label] for label in measured]
  terms = [_half_log_det(one, _spectrum(one))[0] for one in classes]
  return float(np.average(terms, weights=[len(one) for one in classes]))


def _measured(features: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns features in float64, labels, and the labels of classes with `MIN_SAMPLES` examples."""
  # NumPy arrays can always be float64, those of jax only if its 64-bit mode is on.
  features, labels = samples.as_array(features, "features"), samples.classes(labels)
  if features.ndim != 2 or labels.shape != features.shape[:1]:
    raise UserError(
      f"Features have shape {list(features.shape)} and labels {list(labels.shape)}: make them "
      "[samples, d] and [samples]."
    )
  if not np.isfinite(features).all():
    raise UserError("Features hold NaN or infinity: the model diverged; train it again.")
  present, counts = np.unique(labels, return_counts=True)
  measured = present[counts >= MIN_SAMPLES]
  if not len(measured):
    raise UserError(
      f"No class has {MIN_SAMPLES} examples, which a covariance needs: measure more images."
    )
  return features.astype(np.float64), labels, measured


def _spectrum(features: np.ndarray) -> np.ndarray:
  """Returns the eigenvalues of the covariance of `[samples, d]`, largest first, `[d]`."""
  spectrum = np.zeros(features.shape[1])
  singular = np.linalg.svd(features - features.mean(axis=0), compute_uv=False)
  spectrum[: len(singular)] = singular**2 / len(features)
  return spectrum


def _half_log_det(features: np.ndarray, spectrum: np.ndarray) -> tuple[float, float]:
  """Returns `1/2 ln det` of the shrunk covariance of `[samples, d]` in nats, and the shrinkage.

  Shrinking towards a multiple of the identity keeps the directions of the covariance.
  """
  shrinkage = covariance.ledoit_wolf_shrinkage(features)
  shrunk = (1 - shrinkage) * spectrum + shrinkage * spectrum.mean()
  # A class that is a single point has no volume: the smallest number of float64 replaces it.
  logs = np.log(np.maximum(shrunk, np.finfo(float).tiny))
  return 0.5 * float(logs.sum()), float(shrinkage)


def _geometry(
  features: np.ndarray,
  label: int,
  cosines: tuple[float, float | None],
  directions: int,
  seed: int,
) -> ClassTerms:
  """Returns the terms of one class from its features `[samples, d]`."""
  spectrum = _spectrum(features)
  half_log_det, shrinkage = _half_log_det(features, spectrum)
  share = spectrum / spectrum.sum() if spectrum.sum() > 0 else spectrum
  rank = float(np.exp(stats.entropy(share))) if spectrum.sum() > 0 else 0.0
  return ClassTerms(
    half_log_det=half_log_det,
    intra_cosine=cosines[0],
    inter_cosine=cosines[1],
    effective_rank=rank,
    divergence=_divergence(features - features.mean(axis=0), directions, seed),
    label=label,
    samples=len(features),
    shrinkage=shrinkage,
    spectrum=tuple(spectrum.tolist()),
  )


def _cosines(features: np.ndarray, labels: np.ndarray) -> dict[int, tuple[float, float | None]]:
  """Returns the mean cosine similarity inside each class and to the other classes, by label.

  Sums of unit vectors give the means. A zero vector has similarity 0 with everything.
  """
  norms = np.linalg.norm(features, axis=1, keepdims=True)
  units = features / np.where(norms > 0, norms, 1.0)
  everything = units.sum(axis=0)
  found = {}
  for label in np.unique(labels):
    inside = units[labels == label]
    count, total = len(inside), inside.sum(axis=0)
    others = len(units) - count
    pairs = count * (count - 1)
    intra = (total @ total - (inside**2).sum()) / pairs if pairs else float("nan")
    inter = float(total @ (everything - total)) / (count * others) if others else None
    found[label] = float(intra), inter
  return found


def _divergence(centred: np.ndarray, directions: int, seed: int) -> float:
  """Returns the mean over directions of `H(normal of the same variance) - H(projection)`, nats.

  Entropies are Vasicek's, by spacings; their bias is removed with as many normal samples.
  """
  count = len(centred)
  frame = projection.draw(centred.shape[1], directions, seed).astype(np.float64)
  normal = np.random.default_rng([seed, count]).standard_normal((count, directions))
  values = _negentropy(centred @ frame)
  if np.isnan(values).all():
    return 0.0
  return float(np.nanmean(values) - _negentropy(normal).mean())


def _negentropy(values: np.ndarray) -> np.ndarray:
  """Returns the negentropy of every column of `[samples, columns]`; NaN for a constant one."""
  std = values.std(axis=0)
  values = values / np.where(std > 0, std, 1.0)
  # Equal values have a spacing of 0, which has no logarithm.
  with np.errstate(divide="ignore"):
    entropy = stats.differential_entropy(values, axis=0, method="vasicek")
  found = 0.5 * np.log(2 * np.pi * np.e) - entropy
  return np.where((std > 0) & np.isfinite(found), found, np.nan)
