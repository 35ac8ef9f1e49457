"""Prints error and time of every estimator: `python -m benchmarks.estimators [--seeds=3]`.

By default every estimator runs on every task of known information, and the program prints one
Markdown table of errors (estimate minus truth, nats) and one of seconds. `--speed` times fixed
sizes instead, and compares with scikit-learn. Neither needs a recipe, a dataset or a victim.
"""

import argparse
import functools
import statistics
import time
import typing
from collections.abc import Sequence

import numpy as np

from benchmarks import estimator_speed, tables
from benchmarks.tasks import TASKS, Task
from miue_jax.information import ESTIMATORS
from miue_jax.settings.config import Estimator

COLUMNS = {name: ESTIMATORS[name] for name in typing.get_args(Estimator)}
COLUMNS["histogram"] = functools.partial(ESTIMATORS["histogram"], correction="miller_madow")

# A histogram of more features than these, x and y together, has more cells than samples.
_HISTOGRAM_FEATURES = 4


def measure(task: Task, name: str, samples: int, seeds: int) -> dict[str, float] | None:
  """Measures the error of one estimator on one task.

  Args:
    task: Distribution with its true information.
    name: Key of `COLUMNS`.
    samples: Number of pairs.
    seeds: Number of repetitions.

  Returns:
    `error`, mean over seeds of estimate minus truth (nats); `spread`, its standard deviation (0 for
    one seed); `seconds`, median; `warned`, share of results with a warning. None for a histogram of
    more than four features.
  """
  errors, seconds, warned = [], [], 0
  for seed in range(seeds):
    x, y = task.draw(np.random.default_rng(seed), samples)
    if name == "histogram" and x.shape[1] + y.shape[1] > _HISTOGRAM_FEATURES:
      return None
    began = time.perf_counter()
    found = COLUMNS[name](x, y, bootstrap=0, null=0, seed=seed)
    seconds.append(time.perf_counter() - began)
    errors.append(found.mi - task.truth)
    warned += bool(found.warnings)
  return {
    "error": statistics.mean(errors),
    "spread": statistics.pstdev(errors),
    "seconds": statistics.median(seconds),
    "warned": warned / seeds,
  }


def table(tasks: Sequence[Task], names: Sequence[str], samples: int, seeds: int) -> str:
  """Returns two Markdown tables, errors and seconds; `*` marks estimates with a warning."""
  errors, times = [], []
  for task in tasks:
    found = {name: measure(task, name, samples, seeds) for name in names}
    title = {"task": task.name, "truth": f"{task.truth:.3f}"}
    errors.append(title | {name: _error(cell, seeds) for name, cell in found.items()})
    times.append(
      title | {name: f"{cell['seconds']:.2f}" if cell else "" for name, cell in found.items()}
    )
  return (
    f"Estimate minus truth in nats, {samples:,} pairs, mean over {seeds} seeds"
    f"{' ± standard deviation' if seeds > 1 else ''}; * marks at least one warning.\n\n"
    f"{tables.markdown(errors)}\n\nSeconds, median; the first includes compilation.\n\n"
    f"{tables.markdown(times)}"
  )


def _error(cell: dict[str, float] | None, seeds: int) -> str:
  if cell is None:
    return ""
  spread = f" ± {cell['spread']:.2f}" if seeds > 1 else ""
  return f"{cell['error']:+.2f}{spread}{'*' if cell['warned'] else ''}"


def main(argv: Sequence[str] | None = None) -> None:
  """Parses the arguments and prints the tables."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.estimators",
    description="Error and time of every estimator on tasks whose mutual information is known.",
  )
  parser.add_argument("--samples", type=int, default=5000, help="pairs of each task, at least 200")
  parser.add_argument("--seeds", type=int, default=1, help="repetitions of each estimate")
  parser.add_argument(
    "--estimators", nargs="+", choices=COLUMNS, default=list(COLUMNS), help="columns of the tables"
  )
  parser.add_argument(
    "--speed", action="store_true", help="time fixed sizes and compare with scikit-learn instead"
  )
  parser.add_argument("--repeats", type=int, default=5, help="timed runs with --speed")
  values = parser.parse_args(argv)
  if values.samples < 200 or values.seeds < 1 or values.repeats < 1:
    parser.error("--samples must be at least 200, --seeds and --repeats at least 1")
  if values.speed:
    print(estimator_speed.compare(values.repeats))
  else:
    print(table(TASKS, values.estimators, values.samples, values.seeds))


if __name__ == "__main__":
  main()
