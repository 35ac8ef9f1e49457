"""Protects folders of toy pictures, and reads what was published."""

import contextlib
import io

import numpy as np
from PIL import Image

from miue_jax.owner import protect
from miue_jax.owner.request import Request


def run(photos, out, **changes):
  """Returns the verdict and what was said and asked."""
  request = Request(photos, out, **{"seed": 1} | changes)
  with contextlib.redirect_stdout(io.StringIO()) as printed:
    found = protect.protect(request, print)
  return found, printed.getvalue()


def files(folder):
  """Returns the content of every file, by its path."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


def pixels(path):
  """Returns the values of a picture as int."""
  with Image.open(path) as image:
    return np.asarray(image).astype(int)
