"""Tests our PNG files with Pillow's reader."""

import io

import numpy as np
import pytest
import samples
from PIL import Image

from miue_jax.pictures import decode, png


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("strip", [1, 1000, 2**22])
@pytest.mark.parametrize("make", [samples.soft, samples.deep])
def test_strips_join(channels, strip, make, monkeypatch):
  monkeypatch.setattr(png, "_STRIP_BYTES", strip)
  values = make(np.random.default_rng(0), 37, 53, channels)
  np.testing.assert_array_equal(decode.decode(png.encode(values), "x").channels, values)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_others_read_the_file(channels, mode):
  values = samples.soft(np.random.default_rng(0), 5, 7, channels)
  with Image.open(io.BytesIO(png.encode(values, b"Exif\0\0MM\0*", b"profile"))) as image:
    image.load()
  assert image.mode == mode
  np.testing.assert_array_equal(np.asarray(image).reshape(values.shape), values)
  assert image.info["icc_profile"] == b"profile"
  assert image.info["exif"].endswith(b"MM\0*")


def test_rows_that_repeat_cost_little():
  values = np.tile(np.random.default_rng(0).integers(0, 256, (1, 300, 3), np.uint8), (300, 1, 1))
  assert len(png.encode(values)) < values.nbytes / 50
