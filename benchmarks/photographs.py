"""Makes a folder of photographs of megapixels in four classes, to try `miue-jax protect` on.

    python -m benchmarks.photographs FOLDER --each=16

Three or four photographs of a class, which scikit-image, scikit-learn and Matplotlib ship, are
varied: a part of 60 to 90 % of each side, rotated by up to 6 degrees, enlarged to 1 to 3
megapixels, with another exposure, colour balance and noise, as JPEG 92. They are therefore as alike
as the pictures of one event.
"""

import argparse
import pathlib

import matplotlib.cbook
import numpy as np
from PIL import Image
from skimage import data
from sklearn import datasets

SOURCES = {
  "people": ("astronaut", "camera", "grace_hopper"),
  "scenes": ("coffee", "china", "flower", "motorcycle"),
  "space": ("hubble_deep_field", "moon", "rocket"),
  "surfaces": ("brick", "grass", "gravel"),
}


def source(name: str) -> Image.Image:
  """Returns one of the shipped photographs in colour."""
  if name == "grace_hopper":
    path = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    return Image.open(path).convert("RGB")
  if name in ("china", "flower"):
    return Image.fromarray(datasets.load_sample_image(f"{name}.jpg"))
  if name == "motorcycle":
    return Image.fromarray(data.stereo_motorcycle()[0])
  return Image.fromarray(getattr(data, name)()).convert("RGB")


def varied(image: Image.Image, rng: np.random.Generator) -> Image.Image:
  """Returns another photograph of what a photograph shows."""
  turned = image.rotate(rng.uniform(-6, 6), Image.Resampling.BICUBIC)
  width, height = (round(side * rng.uniform(0.6, 0.9)) for side in image.size)
  left, top = (
    round((whole - side) * rng.uniform(0.2, 0.8))
    for whole, side in zip(image.size, (width, height), strict=True)
  )
  scale = np.sqrt(rng.uniform(1e6, 3e6) / (width * height))
  size = (round(scale * width), round(scale * height))
  part = turned.resize(size, Image.Resampling.LANCZOS, (left, top, left + width, top + height))
  light = rng.uniform(0.75, 1.25) * rng.uniform(0.94, 1.06, 3)
  noise = rng.normal(0, 2, (size[1], size[0], 3))
  return Image.fromarray(np.clip(np.asarray(part) * light + noise, 0, 255).astype(np.uint8))


def main() -> None:
  """Writes the photographs, as many of each class."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("folder", type=pathlib.Path)
  parser.add_argument("--each", type=int, default=16)
  options = parser.parse_args()
  rng = np.random.default_rng(0)
  for kind, names in SOURCES.items():
    (options.folder / kind).mkdir(parents=True, exist_ok=True)
    for number in range(options.each):
      picture = varied(source(names[number % len(names)]), rng)
      picture.save(options.folder / kind / f"{number:03d}.jpg", quality=92)


if __name__ == "__main__":
  main()
