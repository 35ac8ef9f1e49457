"""Times the estimators of mutual information on random samples of fixed sizes."""

import importlib.metadata
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn import feature_selection

from benchmarks import tasks
from miue_jax.information import estimators, knn
from miue_jax.plan.stopwatch import spread

SAMPLES = 10_000
FEATURES = 512  # of a ResNet-18
SLICES = 1000
_BINS = 16
_NEIGHBOURS = 3
_PAIR = tasks.normal("", tasks.paired(1, 0.75))


def run(repeats: int) -> dict[str, Any]:
  """Times three estimates, the last beside scikit-learn's, in alternation: A B A B ...

  Args:
    repeats: runs of each, after one to warm up.

  Returns:
    `rows` (`estimate`, `samples`, `features`, `seconds`: median, low and high) and `peer`: its
    `name` and `version`, `seconds`, `ratio` (its seconds over ours) and both estimates in nats.
  """
  rng = np.random.default_rng(0)
  x, noise = rng.standard_normal((2, SAMPLES, FEATURES), np.float32)
  y = x + noise
  scalar_x, scalar_y = _PAIR.draw(rng, SAMPLES)
  found: dict[str, float] = {}

  def sliced() -> None:
    estimators.sliced(x, y, projections=SLICES, inner={"bins": _BINS})

  def nearest() -> None:
    knn.point(x[:, :2], y[:, :2], neighbours=_NEIGHBOURS)

  def ours() -> None:
    found["ours"] = knn.point(scalar_x, scalar_y, neighbours=_NEIGHBOURS).mi

  def theirs() -> None:
    (found["theirs"],) = feature_selection.mutual_info_regression(
      scalar_x, scalar_y[:, 0], n_neighbors=_NEIGHBOURS, random_state=0
    ).tolist()

  (sliced_seconds,), (nearest_seconds,) = _times([sliced], repeats), _times([nearest], repeats)
  scalar, peer = _times([ours, theirs], repeats)
  timed = (
    (f"histogram, {SLICES:,} slices", FEATURES, sliced_seconds),
    ("k-NN", 2, nearest_seconds),
    ("k-NN", 1, scalar),
  )
  return {
    "rows": [
      {"estimate": name, "samples": SAMPLES, "features": features, "seconds": spread(seconds)}
      for name, features, seconds in timed
    ],
    "peer": {
      "name": "mutual_info_regression of scikit-learn",
      "version": importlib.metadata.version("scikit-learn"),
      "seconds": spread(peer),
      "ratio": spread([theirs / ours for ours, theirs in zip(scalar, peer, strict=True)]),
      "nats": {"ours": found["ours"], "theirs": found["theirs"]},
    },
  }


def _times(calls: list[Callable[[], None]], repeats: int) -> list[list[float]]:
  """Seconds of every run of every call, taken in turn; the first round is not counted."""
  seconds: list[list[float]] = [[] for _ in calls]
  for _ in range(1 + repeats):
    for call, times in zip(calls, seconds, strict=True):
      began = time.perf_counter()
      call()
      times.append(time.perf_counter() - began)
  return [times[1:] for times in seconds]
