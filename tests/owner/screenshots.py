"""Makes the screenshots of `docs/protect.md`, which says how, from pictures that nobody owns."""

import io
import pathlib

import chromium
import numpy as np
import typer
from PIL import Image

CLASSES = ("discs", "stripes", "tiles", "waves")
_HEIGHT, _WIDTH = 420, 560


_COLOURS = 56  # of a screenshot, so that its file is small
_TOP = {390: 1860, 768: 1690, 1280: 1620}  # height of what is shown of a page, by its width

app = typer.Typer(add_completion=False)


@app.command()
def draw(root: pathlib.Path, count: int = 40) -> None:
  """Writes so many pictures of each class below `root`: shapes before a sky and a ground."""
  for number, name in enumerate(CLASSES):
    (root / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
      image = picture(name, np.random.default_rng([number, i]))
      Image.fromarray(image).save(root / name / f"{name}-{i:02}.jpg", quality=95)


def picture(name, rng):
  """Returns a picture of a class, uint8 `[H, W, 3]`."""
  down, right = np.mgrid[:_HEIGHT, :_WIDTH].astype(np.float32)
  top, bottom, ink = rng.uniform(40, 215, (3, 3)).astype(np.float32)
  far = down[..., None] / _HEIGHT
  image = (1 - far) * top + far * bottom
  shape = _shape(name, rng, down, right)[..., None]
  light = 0.75 + 0.5 * right[..., None] / _WIDTH
  image = (1 - shape) * image + shape * ink * light
  grain = rng.normal(0, 1, (_HEIGHT, _WIDTH, 1)) * rng.uniform(2, 6)
  return (image + grain).clip(0, 255).astype(np.uint8)


def _shape(name, rng, down, right):
  """Returns where the shapes of a class cover the background, in [0, 1]."""
  angle, period = rng.uniform(0, np.pi), rng.uniform(50, 110)
  along = (right * np.cos(angle) + down * np.sin(angle)) / period
  across = (down * np.cos(angle) - right * np.sin(angle)) / period
  if name == "stripes":
    edge = np.abs(along % 1 - 0.5) - 0.25
  elif name == "tiles":
    edge = np.maximum(np.abs(along % 1 - 0.5), np.abs(across % 1 - 0.5)) - 0.32
  elif name == "waves":
    edge = np.abs((across + 0.4 * np.sin(2 * along)) % 1 - 0.5) - 0.15
  else:
    places = rng.uniform((0, 0, 40), (_HEIGHT, _WIDTH, 100), (6, 3))
    edge = np.min([np.hypot(down - y, right - x) / r - 1 for y, x, r in places], axis=0)
  return (0.5 - edge * 40).clip(0, 1)


@app.command()
def take(page: pathlib.Path, docs: pathlib.Path) -> None:
  """Writes a screenshot of the top of a page into `docs` for each width, and a dark one."""
  with chromium.started() as browser:
    for width, scheme in (*((width, "light") for width in _TOP), (390, "dark")):
      size = {"width": width, "height": _TOP[width]}
      shown = browser.new_page(viewport=size, color_scheme=scheme)
      shown.goto(page.absolute().as_uri())
      image = Image.open(io.BytesIO(shown.screenshot())).convert("RGB")
      name = f"page-{width}{'-dark' if scheme == 'dark' else ''}.png"
      image.quantize(_COLOURS, dither=Image.Dither.NONE).save(docs / name, optimize=True)
      shown.close()


if __name__ == "__main__":
  app()
