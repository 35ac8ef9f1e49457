r"""Measures how a carried perturbation survives loaders, and what a picture of 24 megapixels costs.

    python -m benchmarks.carrying [--large]

The first table uses five photographs of scikit-image, enlarged to 1,200 pixels, and perturbations
of 64 x 64 cells of +-8/255. A loader squashes the picture, crops its centre, or crops a random part
(25 to 100 % of the area), and resizes it with antialiasing; JPEG may come before. "made" is the
perturbation under the same crop and resize. A cell is the correlation of what arrives with what was
made, and the ratio of their root mean squares.
"""

import argparse
import io
import pathlib
import tempfile
import time
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage import data

from miue_jax.machine import memory
from miue_jax.pictures import carry, decode, encode, publish, restore, survey
from miue_jax.pictures.decode import Picture
from miue_jax.pictures.key import Key

CELLS, SIDE = 64, 1200
LOADERS = ("squash", "centre crop", "random crop")
QUALITIES = (None, 90, 75)
Box = tuple[float, float, float, float]  # left, top, right, bottom as parts of the picture


def photographs(side: int = SIDE) -> list[Image.Image]:
  """Returns five photographs that scikit-image ships, with a longer side of `side` pixels."""
  names = ("astronaut", "coffee", "chelsea", "rocket", "retina")
  images = [Image.fromarray(getattr(data, name)()) for name in names]
  scales = [side / max(image.size) for image in images]
  return [
    image.resize(
      (round(scale * image.width), round(scale * image.height)), Image.Resampling.BICUBIC
    )
    for image, scale in zip(images, scales, strict=True)
  ]


def perturbation(kind: str, rng: np.random.Generator, size: int = CELLS) -> np.ndarray:
  """Returns signs of white noise, or of noise that is smooth over some cells, int8 `[s, s, 3]`."""
  noise = rng.standard_normal((size, size, 3))
  if kind == "smooth":
    noise = ndimage.gaussian_filter(noise, (1.5, 1.5, 0))
  return (8 * np.sign(noise)).astype(np.int8)


def box_of(loader: str, width: int, height: int, rng: np.random.Generator) -> Box:
  """Returns the part of a picture that a loader looks at."""
  if loader == "squash":
    return (0.0, 0.0, 1.0, 1.0)
  if loader == "centre crop":
    x, y = (min(width, height) / side / 2 for side in (width, height))
    return (0.5 - x, 0.5 - y, 0.5 + x, 0.5 + y)
  area, ratio = rng.uniform(0.25, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
  across = min(1.0, np.sqrt(area * ratio * height / width))
  down = min(1.0, np.sqrt(area / ratio * width / height))
  x, y = rng.uniform(0, 1 - across), rng.uniform(0, 1 - down)
  return (x, y, x + across, y + down)


def seen(image: Image.Image, box: Box, size: int) -> np.ndarray:
  """Returns a part of a picture as a loader resizes it, float32 `[size, size, C]`."""
  left, right = (part * image.width for part in box[::2])
  top, bottom = (part * image.height for part in box[1::2])
  place = (left, top, right, bottom)
  return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, place), np.float32)


def arrives(
  image: Image.Image, delta: np.ndarray, box: Box, size: int, quality: int | None
) -> tuple[float, float]:
  """Returns correlation and ratio of root mean squares of what arrives and what was made."""
  public = Image.fromarray(carry.apply(np.asarray(image), delta)[0])
  pair = [_compressed(picture, quality) for picture in (public, image)]
  got = seen(pair[0], box, size) - seen(pair[1], box, size)
  planes = [Image.fromarray(delta[..., c].astype(np.float32)) for c in range(3)]
  made = np.stack([seen(plane, box, size) for plane in planes], axis=-1)
  correlation = np.corrcoef(got.ravel(), made.ravel())[0, 1]
  return float(correlation), float(np.sqrt((got**2).mean() / (made**2).mean()))


def _compressed(image: Image.Image, quality: int | None) -> Image.Image:
  if quality is None:
    return image
  buffer = io.BytesIO()
  image.save(buffer, "JPEG", quality=quality)
  return Image.open(io.BytesIO(buffer.getvalue()))


def survival(images: list[Image.Image], sizes: tuple[int, ...] = (64, 128, 224)) -> list[str]:
  """Returns the lines of the first table, in Markdown."""
  names = ["none" if quality is None else f"JPEG-{quality}" for quality in QUALITIES]
  columns = ["perturbation", "size", "loader", *names]
  lines = [f"| {' | '.join(columns)} |", "|---|---:|---|" + "---:|" * len(names)]
  for kind in ("white", "smooth"):
    for size in sizes:
      for loader in LOADERS:
        cells = []
        for quality in QUALITIES:
          rng, found = np.random.default_rng(1), []
          for image in images:
            box = box_of(loader, *image.size, rng)
            found.append(arrives(image, perturbation(kind, rng), box, size, quality))
          cells.append(" / ".join(f"{value:.2f}" for value in np.mean(found, axis=0)))
        lines.append(f"| {kind} | {size} | {loader} | {' | '.join(cells)} |")
  return lines


def large(megapixels: int = 24) -> list[str]:
  """Returns lines about time, peak memory and bytes of the key for one large picture."""
  rng, lines = np.random.default_rng(0), []
  height, width = 1000 * megapixels // 6, 6000
  size = (width, height)
  base = np.asarray(Image.fromarray(data.coffee()).resize(size, Image.Resampling.BICUBIC))
  pixels = base.astype(np.int16) + rng.integers(-3, 4, base.shape, np.int8)
  photo = np.clip(pixels, 0, 255).astype(np.uint8)
  delta = rng.integers(-8, 9, (CELLS, CELLS, 3)).astype(np.int8)
  del base, pixels

  def timed(name: str, work: Callable):
    wall, start = time.perf_counter(), time.process_time()
    result = work()
    spent, wall = time.process_time() - start, time.perf_counter() - wall
    peak = memory.peak() / 2**20
    lines.append(f"| {name} | {spent:.2f} | {wall:.2f} | {peak:.0f} |")
    return result

  lines += ["| step | CPU seconds | seconds | peak MiB so far |", "|---|---:|---:|---:|"]
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    (root / "in" / "a").mkdir(parents=True)
    file = root / "in" / "a" / "x.jpg"
    Image.fromarray(photo).save(file, quality=92)
    del photo
    picture = timed("decode JPEG", lambda: decode.read(file))
    timed("contrast weights", lambda: carry.contrast_weights(picture, CELLS, floor=0.5))
    timed("squash to 64", lambda: decode.squashed(picture, CELLS))
    changed, lost = timed("carry and add", lambda: carry.apply(picture.channels, delta))
    timed("restore the pixels", lambda: carry.remove(changed, delta, lost))
    for kind in encode.SUFFIX:
      timed(f"encode {kind}", lambda kind=kind: encode.encode(Picture(changed), kind))
    found = survey.survey(root / "in").pictures[0]
    sizes = [f"The original has {file.stat().st_size:,} bytes."]
    for kind in encode.SUFFIX:
      path, out = root / f"{kind}.key", root / kind
      with Key.create(path, {}) as key:
        before = path.stat().st_size
        work = lambda: publish.publish(root / "in", found, delta, out, key, kind=kind)  # noqa: B023, E731
        result = timed(f"publish as {kind}", work)
        entry = path.stat().st_size - before
        timed(f"restore from {kind}", lambda: restore.restore(out, root / "back" / kind, key))  # noqa: B023
      public = (out / result.path).stat().st_size
      sizes.append(
        f"As {kind} it has {public:,} bytes and its entry in the key {entry:,}, "
        f"{entry / megapixels:,.0f} a megapixel."
      )
  return [*lines, "", *sizes]


if __name__ == "__main__":
  parser = argparse.ArgumentParser(
    "python -m benchmarks.carrying",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--large", action="store_true", help="measure one picture of 24 megapixels")
  print("\n".join(large() if parser.parse_args().large else survival(photographs())))
