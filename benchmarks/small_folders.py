"""Measures what victims learn from a small folder of pictures, by how it was perturbed.

    python -m benchmarks.small_folders PHOTOS TEST --victim=resnet18:12:10:32

Both folders have a folder for each class. A victim is the name of a network, its width, epochs and
batch size. Every row is one way to perturb: one perturbation for each picture or for each class, in
more epochs, weighted by local contrast with a least weight, and recompressed as JPEG.
"""

import argparse
import dataclasses
import pathlib

import numpy as np

from miue_jax.experiment import api
from miue_jax.methods import AlternatingSettings
from miue_jax.owner import choose, load, pipelines
from miue_jax.owner.load import Loaded
from miue_jax.pictures import carry, decode, survey

VICTIMS = ("small_cnn:24:6:128", "small_cnn:24:24:32", "resnet18:12:10:32")


@dataclasses.dataclass(frozen=True)
class Way:
  """A way to perturb pictures.

  Attributes:
    name: Name in the table.
    changes: Settings of the method that differ from those for so many pictures.
    floor: Least weight of a smooth cell; 1 weights nothing.
    quality: JPEG quality of a site that recompresses the pictures; None for none.
  """

  name: str
  changes: dict
  floor: float = 1.0
  quality: int | None = None


def ways(epochs: int) -> tuple[Way, ...]:
  """Returns the ways that are compared, with so many epochs where nothing else is said."""
  short, twice = {"epochs": epochs}, {"epochs": 2 * epochs}
  return (
    Way("for each picture", short),
    Way("the same, smooth areas at half", short, floor=0.5),
    Way("the same, smooth areas at a quarter", short, floor=0.25),
    Way("the same as the second, twice the epochs", twice, floor=0.5),
    Way("for each class", short | {"class_wise": True}),
    Way("for each picture, after JPEG 75", short, quality=75),
    Way("for each class, after JPEG 75", short | {"class_wise": True}, quality=75),
  )


def read(folder: pathlib.Path, size: int) -> tuple[survey.Survey, Loaded, np.ndarray]:
  """Returns the pictures of a folder, squashed to `size` pixels a side, and their classes `[N]`."""
  found = survey.survey(folder)
  loaded = load.load(folder, found.pictures, size, size)
  names = sorted(found.class_names)
  labels = np.array([names.index(picture.class_name) for picture in loaded.pictures], np.int32)
  return found, loaded, labels


def perturbed(way: Way, photos: pathlib.Path, loaded: Loaded, delta: np.ndarray) -> np.ndarray:
  """Returns the pictures as they are published in some way, uint8 `[N, s, s, 3]`."""
  rows, size = [], delta.shape[1]
  for found, pixels, change in zip(loaded.pictures, loaded.small, delta, strict=True):
    shaped = change
    if way.floor < 1:
      picture = decode.read(photos / found.path)
      weights = carry.contrast_weights(picture, size, floor=way.floor)
      shaped = carry.shaped(change, weights)
    rows.append(np.clip(pixels.astype(np.int16) + shaped, 0, 255).astype(np.uint8))
  if way.quality:
    recompressed = pipelines.jpeg(way.quality)
    rows = [recompressed(decode.Picture(row), size) for row in rows]
  return np.stack(rows)


def psnr(originals: np.ndarray, published: np.ndarray) -> float:
  """Returns the peak signal-to-noise ratio over all pictures, in dB."""
  error = np.mean((originals.astype(float) - published) ** 2)
  return float(10 * np.log10(255**2 / error)) if error else np.inf


def main(arguments: list[str] | None = None) -> None:
  """Prints a table: a row for each way, two columns for each victim."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("photos", type=pathlib.Path)
  parser.add_argument("test", type=pathlib.Path)
  parser.add_argument("--victim", action="append", help="NAME:WIDTH:EPOCHS:BATCH", default=None)
  parser.add_argument("--epochs", type=int, default=16)
  parser.add_argument("--size", type=int, default=32, help="pixels a side that networks see")
  options = parser.parse_args(arguments)
  found, loaded, labels = read(options.photos, options.size)
  _, tested, answers = read(options.test, options.size)
  method = choose.choose(found.counts(), choose.STRENGTH, options.size, 0).method
  sets, deltas = {"originals": loaded.small}, {}
  for way in ways(options.epochs):
    key = str(way.changes)
    if key not in deltas:
      deltas[key] = made(dataclasses.replace(method, **way.changes), loaded.small, labels)
    sets[way.name] = perturbed(way, options.photos, loaded, deltas[key])
  columns = {}
  for victim in options.victim or VICTIMS:
    name, width, epochs, batch = victim.split(":")
    rows = api.evaluate(
      sets,
      labels,
      (tested.small, answers),
      victims=(name,),
      width=int(width),
      epochs=int(epochs),
      batch_size=int(batch),
      normalise="none",
      augment="crop_flip",
      learning_rate=0.1,
      weight_decay=5e-4,
    )
    columns[victim] = {row["method"]: row for row in rows}
  print(f"| perturbation | PSNR (dB) | {' | '.join(columns)} |\n|---|---:{'|---:' * len(columns)}|")
  for name, images in sets.items():
    cells = [
      f"{rows[name]['test_accuracy']:.1f} / {rows[name]['peak_test_accuracy']:.1f}"
      for rows in columns.values()
    ]
    print(f"| {name} | {psnr(loaded.small, images):.1f} | {' | '.join(cells)} |")


def made(method: AlternatingSettings, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Returns perturbations int8 `[N, s, s, 3]`."""
  poison = api.protect(images, labels, method.name, settings=method)
  return (poison.apply(images).astype(np.int16) - images).astype(np.int8)


if __name__ == "__main__":
  main()
