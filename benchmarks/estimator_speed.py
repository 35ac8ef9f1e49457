"""Times the estimators of mutual information on random samples of fixed sizes."""

import importlib.metadata
import time
from collections.abc import Callable, Sequence

import numpy as np
from sklearn import feature_selection

from benchmarks import tables, tasks
from miue_jax.information import estimators, knn

SAMPLES = 10_000
FEATURES = 512  # features of a ResNet-18
SLICES = 1000
_PAIR = tasks.normal("", tasks.paired(1, 0.75))


def compare(repeats: int) -> str:
  """Times three estimates and `mutual_info_regression` of scikit-learn, in alternation.

  Args:
    repeats: Number of timed runs of each; one more run before them warms up.

  Returns:
    A Markdown table, and how scikit-learn compares on the same samples.
  """
  rng = np.random.default_rng(0)
  x, noise = rng.standard_normal((2, SAMPLES, FEATURES), np.float32)
  y = x + noise
  scalar_x, scalar_y = _PAIR.draw(rng, SAMPLES)

  def ours() -> float:
    return knn.point(scalar_x, scalar_y, neighbours=3).mi

  def theirs() -> float:
    found = feature_selection.mutual_info_regression(
      scalar_x, scalar_y[:, 0], n_neighbors=3, random_state=0
    )
    return float(found[0])

  calls = {
    (f"histogram, {SLICES:,} slices", FEATURES): lambda: estimators.sliced(
      x, y, projections=SLICES, inner={"bins": 16}
    ),
    ("k-NN", 2): lambda: knn.point(x[:, :2], y[:, :2], neighbours=3),
    ("k-NN", 1): ours,
    ("k-NN, scikit-learn", 1): theirs,
  }
  seconds = times(list(calls.values()), repeats)
  rows = [
    {"estimate": name, "samples": SAMPLES, "features": features, "seconds": tables.spread(found)}
    for (name, features), found in zip(calls, seconds, strict=True)
  ]
  ratio = tables.spread([theirs / ours for ours, theirs in zip(*seconds[2:], strict=True)])
  return (
    f"{tables.markdown(rows)}\n\nMedian (range); features of each side. On the same samples, "
    f"scikit-learn {importlib.metadata.version('scikit-learn')} takes {tables.cell(ratio)} times "
    f"as long as ours and estimates {theirs():.3f} nats, ours {ours():.3f}."
  )


def times(calls: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
  """Times calls in alternation, A B A B ..., and drops the first round.

  Returns:
    Seconds of each run of each call.
  """
  seconds: list[list[float]] = [[] for _ in calls]
  for _ in range(1 + repeats):
    for call, found in zip(calls, seconds, strict=True):
      began = time.perf_counter()
      call()
      found.append(time.perf_counter() - began)
  return [found[1:] for found in seconds]
