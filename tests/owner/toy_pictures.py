"""Writes pictures of toy classes."""

import numpy as np
from PIL import Image


def toy(path, name, count, start=0):
  """Writes pictures of a class: a brightness of the class with noise."""
  (path / name).mkdir(parents=True, exist_ok=True)
  for number in range(start, start + count):
    rng = np.random.default_rng([number, len(name)])
    base = 70 + 30 * len(name)
    values = rng.integers(base - 60, base + 60, (20, 24, 3)).clip(0, 255).astype(np.uint8)
    Image.fromarray(values).save(path / name / f"{number:02}.png")
