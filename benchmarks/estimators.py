"""`python -m benchmarks.estimators [--seeds=3]`: every estimator on every task.

Prints one Markdown table of errors (estimate minus truth, nats) and one of seconds. It is a program
of its own, beside `benchmarks.speed`, because it needs no recipe, no dataset and no victim.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.tasks import TASKS, Task
from miue_jax.information import ESTIMATORS

# What is run under each heading.
RIVALS = {
  "histogram": functools.partial(ESTIMATORS["histogram"], correction="miller_madow"),
  "kde": ESTIMATORS["kde"],
  "knn": ESTIMATORS["knn"],
  "gaussian": ESTIMATORS["gaussian"],
  "mine": ESTIMATORS["mine"],
  "infonce": ESTIMATORS["infonce"],
  "nwj": ESTIMATORS["nwj"],
}

# Histograms of more features than these in all have more cells than there are samples.
_HISTOGRAM_FEATURES = 4


def measure(task: Task, name: str, samples: int, seeds: int) -> dict[str, float] | None:
  """Error of one estimator on one task.

  Args:
    task: with its truth.
    name: a key of `RIVALS`.
    samples: pairs drawn.
    seeds: repetitions.

  Returns:
    `error`, the mean over seeds of estimate minus truth (nats); `spread`, its standard deviation
    (0 for one seed); `seconds`, median; `warned`, share of results with a warning. None for a
    histogram of more than four features.
  """
  errors, seconds, warned = [], [], 0
  for seed in range(seeds):
    x, y = task.draw(np.random.default_rng(seed), samples)
    if name == "histogram" and x.shape[1] + y.shape[1] > _HISTOGRAM_FEATURES:
      return None
    began = time.perf_counter()
    found = RIVALS[name](x, y, bootstrap=0, null=0, seed=seed)
    seconds.append(time.perf_counter() - began)
    errors.append(found.mi - task.truth)
    warned += bool(found.warnings)
  return {
    "error": statistics.mean(errors),
    "spread": statistics.pstdev(errors),
    "seconds": statistics.median(seconds),
    "warned": warned / seeds,
  }


def table(tasks: tuple[Task, ...], names: list[str], samples: int, seeds: int) -> str:
  """Markdown: errors, then seconds; `*` marks estimates that came with a warning."""
  head = ["task", "truth", *names]
  errors, times = [], []
  for task in tasks:
    cells = [measure(task, name, samples, seeds) for name in names]
    title = [task.name, f"{task.truth:.3f}"]
    errors.append([*title, *(_error(cell, seeds) for cell in cells)])
    times.append([*title, *("" if cell is None else f"{cell['seconds']:.2f}" for cell in cells)])
  return (
    f"Estimate minus truth in nats, {samples:,} pairs, mean over {seeds} seeds"
    f"{' ± standard deviation' if seeds > 1 else ''}; * came with a warning, at least once.\n\n"
    f"{_markdown(head, errors)}\n\nSeconds, median, compilation included in the first.\n\n"
    f"{_markdown(head, times)}"
  )


def _error(cell: dict[str, float] | None, seeds: int) -> str:
  if cell is None:
    return ""
  spread = f" ± {cell['spread']:.2f}" if seeds > 1 else ""
  return f"{cell['error']:+.2f}{spread}{'*' if cell['warned'] else ''}"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
  rule = ["---", *["---:"] * (len(head) - 1)]
  return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def main(argv: Sequence[str] | None = None) -> None:
  """Entry point of `python -m benchmarks.estimators`: prints the tables."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.estimators",
    description="Error and time of every estimator on tasks whose mutual information is known.",
  )
  parser.add_argument("--samples", type=int, default=5000, help="pairs of each task, at least 200")
  parser.add_argument("--seeds", type=int, default=1, help="repetitions")
  parser.add_argument("--estimators", nargs="+", choices=RIVALS, default=list(RIVALS))
  values = parser.parse_args(argv)
  if values.samples < 200 or values.seeds < 1:
    parser.error("--samples must be at least 200 and --seeds at least 1")
  print(table(TASKS, values.estimators, values.samples, values.seeds))


if __name__ == "__main__":
  main()
