"""The right-hand side of Theorem 5.1 (Zhu et al., ICLR 2026), term by term, and what it rests on.

For poisoned features g(X') of dimension d whose distribution in class Y is within a divergence
(Kullback-Leibler) eps of N(mu_Y, Sigma_Y),

  I(g(X); g(X')) <= d/2 ln(2 pi e) + 1/2 E_Y ln det Sigma_Y + H(g(X')|g(X)) + E_Y C_Y sqrt(eps)

The first two terms, and a lower bound of eps, can be measured. H(g(X')|g(X)) cannot: a poisoned
image is a function of the clean one, so for continuous features it is minus infinity unless the
model adds noise; and the theorem does not give the constants C_Y as numbers.
"""

import dataclasses

import numpy as np
from scipy import stats
from sklearn import covariance

from miue_jax.information import projection
from miue_jax.settings.errors import UserError

MIN_SAMPLES = 8  # of a class

_BLOCK = 1 << 23  # projected values at a time


@dataclasses.dataclass(frozen=True)
class ClassGeometry:
  """Features of one class.

  Attributes:
    label: of the class.
    samples: number of its examples.
    log_det: ln det of its covariance, shrunk (nats).
    shrinkage: share of the scaled identity in that covariance, by Ledoit and Wolf's rule: 0 is the
      empirical covariance, and near 1 `log_det` says little beyond the total variance.
    spectrum: eigenvalues of the empirical covariance, largest first; at most `samples - 1` are not
      zero.
    effective_rank: exp of the entropy of the normalised spectrum (Roy and Vetterli 2007), 0 where
      the class has a single feature vector.
    intra_cosine: mean cosine similarity of two different examples of the class.
    inter_cosine: mean cosine similarity of one example with one of another class; None where there
      is no other class.
    divergence: mean over random directions of the divergence of the projected class from a normal
      with its mean and variance (nats): a lower bound of the class's eps, 0 for a normal class.
  """

  label: int
  samples: int
  log_det: float
  shrinkage: float
  spectrum: tuple[float, ...]
  effective_rank: float
  intra_cosine: float
  inter_cosine: float | None
  divergence: float


@dataclasses.dataclass(frozen=True)
class Bound:
  """The measurable terms of Theorem 5.1 in nats, classes weighted by their number of examples.

  Attributes:
    dimension: `d/2 ln(2 pi e)`.
    log_det: `1/2 E_Y ln det Sigma_Y`.
    divergence: `E_Y` of the lower bound of eps by projections.
    intra_cosine: `E_Y`.
    inter_cosine: `E_Y`; None where there is one class.
    effective_rank: `E_Y`.
    classes: each class.
    skipped: labels with fewer than `MIN_SAMPLES` examples, in no term.
    note: what was not measured, and how covariances were estimated.
  """

  dimension: float
  log_det: float
  divergence: float
  intra_cosine: float
  inter_cosine: float | None
  effective_rank: float
  classes: tuple[ClassGeometry, ...]
  skipped: tuple[int, ...]
  note: str = (
    "Covariances are shrunk towards a multiple of the identity by Ledoit and Wolf's rule; the "
    "divergence is a lower bound of eps from one-dimensional projections; H(g(X')|g(X)) and C_Y "
    "are not measured, so this is not a bound of the information in nats: compare it between "
    "models of one architecture."
  )


def bound(
  features: np.ndarray, labels: np.ndarray, *, directions: int = 128, seed: int = 0
) -> Bound:
  """Terms of the bound, with the geometry of every class.

  Args:
    features: of poisoned images (or of clean ones, to compare), `[samples, d]`.
    labels: integers, `[samples]`.
    directions: random unit directions for the divergence.
    seed: of the directions.

  Raises:
    UserError: shapes that do not fit, NaN or infinity, or no class with `MIN_SAMPLES` examples.
  """
  features, measured = _measured(features, labels)
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
    dimension=features.shape[1] / 2 * float(np.log(2 * np.pi * np.e)),
    log_det=0.5 * mean("log_det"),
    divergence=mean("divergence"),
    intra_cosine=mean("intra_cosine"),
    inter_cosine=mean("inter_cosine") if len(present) > 1 else None,
    effective_rank=mean("effective_rank"),
    classes=classes,
    skipped=tuple(int(label) for label in np.setdiff1d(present, measured)),
  )


def covariance_term(features: np.ndarray, labels: np.ndarray) -> float:
  """`1/2 E_Y ln det Sigma_Y` of features `[samples, d]`: `bound(...).log_det` alone, in less time.

  Raises:
    UserError: no class with `MIN_SAMPLES` examples.
  """
  features, measured = _measured(features, labels)
  classes = [features[labels == label] for label in measured]
  log_dets = [_log_det(one, _spectrum(one))[0] for one in classes]
  return 0.5 * float(np.average(log_dets, weights=[len(one) for one in classes]))


def _measured(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Features in float64, and the labels of the classes that have `MIN_SAMPLES` of them.

  Raises:
    UserError: as `bound`.
  """
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
  return features.astype(np.float64), measured


def _spectrum(features: np.ndarray) -> np.ndarray:
  """Eigenvalues of the covariance of `[samples, d]`, falling, `[d]`."""
  spectrum = np.zeros(features.shape[1])
  singular = np.linalg.svd(features - features.mean(axis=0), compute_uv=False)
  spectrum[: len(singular)] = singular**2 / len(features)
  return spectrum


def _log_det(features: np.ndarray, spectrum: np.ndarray) -> tuple[float, float]:
  """`ln det` of the shrunk covariance of `[samples, d]` in nats, and the shrinkage.

  Shrinking towards a multiple of the identity keeps the directions of the covariance.
  """
  shrinkage = covariance.ledoit_wolf_shrinkage(features)
  shrunk = (1 - shrinkage) * spectrum + shrinkage * spectrum.mean()
  # A class that is a single point has no volume: the smallest number of float64 stands for it.
  return float(np.log(np.maximum(shrunk, np.finfo(float).tiny)).sum()), float(shrinkage)


def _geometry(
  features: np.ndarray,
  label: int,
  cosines: tuple[float, float | None],
  directions: int,
  seed: int,
) -> ClassGeometry:
  """One class, from its features `[samples, d]`."""
  spectrum = _spectrum(features)
  log_det, shrinkage = _log_det(features, spectrum)
  share = spectrum / spectrum.sum() if spectrum.sum() > 0 else spectrum
  rank = float(np.exp(stats.entropy(share))) if spectrum.sum() > 0 else 0.0
  return ClassGeometry(
    label=label,
    samples=len(features),
    log_det=log_det,
    shrinkage=shrinkage,
    spectrum=tuple(spectrum.tolist()),
    effective_rank=rank,
    intra_cosine=cosines[0],
    inter_cosine=cosines[1],
    divergence=_divergence(features - features.mean(axis=0), directions, seed),
  )


def _cosines(features: np.ndarray, labels: np.ndarray) -> dict[int, tuple[float, float | None]]:
  """Mean cosine similarity inside each class and to the other classes, from sums of unit vectors.

  A zero vector has similarity 0 with everything.
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
  """Mean over directions of `H(normal of the same variance) - H(projection)`, nats.

  Entropies are Vasicek's, by spacings, whose bias is removed with as many normal samples.
  """
  count = len(centred)
  frame = projection.draw(centred.shape[1], directions, 1, seed)[..., 0].astype(np.float64)
  normal = np.random.default_rng([seed, count]).standard_normal((count, directions))
  step = max(1, _BLOCK // count)
  values, reference = [], []
  for start in range(0, directions, step):
    block = slice(start, start + step)
    values.append(_negentropy(centred @ frame[:, block]))
    reference.append(_negentropy(normal[:, block]))
  values, reference = np.concatenate(values), np.concatenate(reference)
  if np.isnan(values).all():
    return 0.0
  return float(np.nanmean(values) - reference.mean())


def _negentropy(values: np.ndarray) -> np.ndarray:
  """Of every column of `[samples, columns]`; NaN for a constant one."""
  std = values.std(axis=0)
  values = values / np.where(std > 0, std, 1.0)
  # Equal values would have a spacing of 0, which has no logarithm.
  with np.errstate(divide="ignore"):
    entropy = stats.differential_entropy(values, axis=0, method="vasicek")
  found = 0.5 * np.log(2 * np.pi * np.e) - entropy
  return np.where((std > 0) & np.isfinite(found), found, np.nan)
