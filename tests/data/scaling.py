"""Memory and time of generation over the number of images and of processes, on real files.

    python -m tests.data.scaling DIR [--images 500 1000 2000 4000] [--processes 1 2 4]

Writes JPEGs of 224 x 224 pixels below DIR/images (once), generates poisons for parts of them with
images that are read whenever they are needed, and leaves DIR/scaling.json and DIR/scaling.svg. One
epoch is a pass of source updates and a pass of one sign step; every process has one CPU device.
Where other programs keep the cores busy, only processor time tells what an image costs.
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import resource
import shutil
import socket
import subprocess
import sys

import matplotlib
import numpy as np
from matplotlib import figure
from PIL import Image

SIZE = 224
CLASSES = 10
BATCH = 20
FLAGS = (
  "--mode=generate",
  "--config=configs/folder.py",
  f"--config.data.size={SIZE}",
  "--config.data.test_fraction=0",
  "--config.data.memory=0",
  "--config.method.model.name=resnet18",
  "--config.method.model.stem=imagenet",
  "--config.method.model.width=4",
  "--config.method.source.augment=none",
  "--config.method.augment=none",
  f"--config.method.source.batch_size={BATCH}",
  f"--config.method.batch_size={BATCH}",
  f"--config.victim_fit.batch_size={BATCH}",
  "--config.method.steps=1",
  "--config.method.draws=1",
)
_EPOCH = re.compile(r"^I(\d{4} [\d:.]+) .*generate: epoch (\d+)/", re.MULTILINE)


def write_images(folder: pathlib.Path, count: int) -> None:
  """Fills `folder` with `count` JPEGs in class folders; smooth colours with grain, as photos have.

  Those that are there already stay.
  """
  for index in range(count):
    path = folder / f"class {index % CLASSES}" / f"{index:06d}.jpg"
    if path.exists():
      continue
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(index)
    shapes = Image.fromarray(random.integers(0, 256, (7, 7, 3), np.uint8)).resize((SIZE, SIZE))
    grain = random.normal(0, 8, (SIZE, SIZE, 3))
    picture = np.clip(np.asarray(shapes) + grain, 0, 255).astype(np.uint8)
    Image.fromarray(picture).save(path, quality=90)


def measure(root: pathlib.Path, images: int, processes: int, epochs: int, ceiling: float) -> dict:
  """Generates one poison.

  Args:
    root: holds `images`; receives a workdir, which is removed again.
    images: how many of them.
    processes: that share the work.
    epochs: of generation, two or more.
    ceiling: GB of private memory that the kernel grants each process; 0 for no limit.

  Returns:
    `seconds_per_epoch` without the first epoch, which compiles, `processor_seconds` of all
    processes from start to end, and `peak_gb` of each process.
  """
  workdir = root / "run"
  shutil.rmtree(workdir, ignore_errors=True)
  command = [sys.executable, "-m", "miue_jax.main", *FLAGS, f"--workdir={workdir}"]
  command += [f"--config.data.path={root / 'images'}", f"--config.data.max_train={images}"]
  command += [f"--config.method.{key}={epochs}" for key in ("epochs", "checkpoint_every")]
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
  if processes > 1:
    environment |= {
      "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
      "JAX_NUM_PROCESSES": str(processes),
    }

  def limit() -> None:
    if ceiling:
      resource.setrlimit(resource.RLIMIT_DATA, (int(ceiling * 1e9),) * 2)

  with open(root / "output.txt", "w") as output:
    running = [
      subprocess.Popen(
        command,
        env=environment | {"JAX_PROCESS_ID": str(number)},
        stdout=output,
        stderr=output,
        preexec_fn=limit,
      )
      for number in range(processes)
    ]
    ended = [os.wait4(process.pid, 0)[1:] for process in running]
  if any(status for status, _ in ended):
    raise RuntimeError(f"{images} images in {processes} processes: see {output.name}")
  times = {
    int(epoch): datetime.datetime.strptime(time, "%m%d %H:%M:%S.%f")
    for time, epoch in _EPOCH.findall((workdir / "log.txt").read_text())
  }
  shutil.rmtree(workdir)
  return {
    "images": images,
    "processes": processes,
    "seconds_per_epoch": round((times[epochs] - times[1]).total_seconds() / (epochs - 1), 2),
    "processor_seconds": round(sum(usage.ru_utime + usage.ru_stime for _, usage in ended), 1),
    "peak_gb": [round(usage.ru_maxrss * 1024 / 1e9, 3) for _, usage in ended],
  }


def free_port() -> int:
  with socket.socket() as server:
    server.bind(("127.0.0.1", 0))
    return server.getsockname()[1]


def plot(rows: list[dict], path: pathlib.Path) -> None:
  """Draws times and memory of one process over images, and memory over processes."""
  alone = [row for row in rows if row["processes"] == 1]
  together = [row for row in rows if row["images"] == max(row["images"] for row in rows)]
  panels = (
    (alone, "images", "seconds per epoch", lambda row: row["seconds_per_epoch"]),
    (alone, "images", "processor seconds", lambda row: row["processor_seconds"]),
    (alone, "images", "peak memory (GB)", lambda row: max(row["peak_gb"])),
    (together, "processes", "peak memory of a process (GB)", lambda row: max(row["peak_gb"])),
  )
  page = figure.Figure(figsize=(12, 2.8), layout="constrained")
  for axes, (chosen, key, label, value) in zip(page.subplots(1, 4), panels, strict=True):
    values = [value(row) for row in chosen]
    axes.plot([row[key] for row in chosen], values, "o-")
    axes.set(xlabel=key, ylabel=label, xlim=(0, None), ylim=(0, 1.1 * max(values)))
    axes.set_xticks(sorted({max(row[key] for row in chosen), *(row[key] for row in chosen[::2])}))
  with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "scaling"}):
    page.savefig(path, metadata={"Date": None})


def main() -> None:
  """Measures, prints and plots."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("folder", type=pathlib.Path)
  parser.add_argument("--images", type=int, nargs="+", default=[500, 1000, 2000, 4000])
  parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
  parser.add_argument("--epochs", type=int, default=3, help="two or more; the first compiles")
  parser.add_argument("--ceiling", type=float, default=0, help="GB for each process; 0: no limit")
  options = parser.parse_args()
  root, most = options.folder.resolve(), max(options.images)
  write_images(root / "images", most)
  cases = [(images, 1) for images in options.images if 1 in options.processes]
  cases += [(most, processes) for processes in options.processes if processes > 1]
  rows = []
  for images, processes in cases:
    rows.append(measure(root, images, processes, options.epochs, options.ceiling))
    print(json.dumps(rows[-1]), flush=True)
  (root / "scaling.json").write_text(json.dumps(rows, indent=2) + "\n")
  plot(rows, root / "scaling.svg")


if __name__ == "__main__":
  main()
