"""`reading.py OUTPUT FOLDER [data.memory] [quarter]`: runs one process of test_images.py."""

import json
import pathlib
import sys

import numpy as np

from miue_jax.data import pixels, sources
from miue_jax.machine import meshes, processes
from miue_jax.settings import config


def main(output: str, folder: str, memory: str = "0", then: str = "") -> None:
  """Loads `folder`, perhaps reads every fourth image, and writes the names of read files.

  They go to the file `output`, because jax's collectives print to standard output.
  """
  meshes.start(0, ())
  read, decode = [], pixels.decode

  def recorded(file, name, **settings):
    read.append(pathlib.Path(name).stem)
    return decode(file, name, **settings)

  pixels.decode = recorded
  data = config.Data(source="folder", path=folder, test_fraction=0, memory=float(memory))
  before = peak_mb()
  dataset = sources.load(data, need_test=False)
  quarter = dataset.train.images[np.arange(0, len(dataset.train), 4)] if then else None
  told = {"fingerprint": dataset.fingerprint, "read": read, "grown_mb": peak_mb() - before}
  pathlib.Path(output).write_text(json.dumps(told))
  del quarter


def peak_mb() -> float:
  """Returns the peak memory of this process in MB; getrusage would include that of its parent."""
  status = pathlib.Path("/proc/self/status")
  if not status.exists():
    return 0.0
  peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
  return int(peak.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
  with processes.together("auto", timeout=60):
    main(*sys.argv[1:])
