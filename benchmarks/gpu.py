"""Measures the matrix peak of a device, and collects what `benchmarks/gpu.sh` measured."""

import argparse
import hashlib
import json
import pathlib
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from miue_jax.experiment.results import Rows
from miue_jax.experiment.workdir import Workdir

_RUNS = 10


def peak(size: int) -> dict[str, Any]:
  """Returns the TFLOP/s of products of square matrices in bfloat16, and the device.

  Args:
    size: Rows and columns.
  """
  matrix = jnp.ones((size, size), jnp.bfloat16)
  product = jax.jit(lambda x: x @ x / size)
  jax.block_until_ready(product(matrix))
  seconds = []
  for _ in range(_RUNS):
    began = time.perf_counter()
    matrix = jax.block_until_ready(product(matrix))
    seconds.append(time.perf_counter() - began)
  device = jax.devices()[0]
  flops = 2 * size**3 / statistics.median(seconds)
  return {"device": device.device_kind, "jax": jax.__version__, "matrix_tflops": flops / 1e12}


def collect(folder: pathlib.Path) -> dict[str, Any]:
  """Returns the content of the JSON file.

  Args:
    folder: Folder with the results of the script.
  """
  found = json.loads((folder / "peak.json").read_text())
  speeds = {}
  for path in folder.glob("speed-*.json"):
    speeds[int(path.stem.removeprefix("speed-"))] = json.loads(path.read_text())
  whole = Workdir(folder / "whole")
  rows = Rows(whole.results).read()
  victims = [
    {key: row[key] for key in ("method", "seed", "test_accuracy", "peak_test_accuracy")}
    for row in rows
  ]
  once, killed = (poison(Workdir(folder / name)) for name in ("once", "killed"))
  return found | {
    "speed": dict(sorted(speeds.items())),
    "whole": {"seconds": float((folder / "whole.seconds").read_text()), "victims": victims},
    "resumed": {"same_bytes": once == killed, "sha256": [once, killed]},
  }


def poison(workdir: Workdir) -> str:
  """Returns the SHA-256 digest of the perturbation of a workdir."""
  digest = hashlib.sha256()
  for path in sorted(workdir.poison.rglob("*.npy")):
    digest.update(path.read_bytes())
  return digest.hexdigest()


def main() -> None:
  """Runs `peak` or `collect`."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("what", choices=("peak", "collect"))
  parser.add_argument("folder", type=pathlib.Path, nargs="?")
  parser.add_argument("--size", type=int, default=8192)
  parser.add_argument("--output", type=pathlib.Path, required=True)
  options = parser.parse_args()
  result = peak(options.size) if options.what == "peak" else collect(options.folder)
  options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
  main()
