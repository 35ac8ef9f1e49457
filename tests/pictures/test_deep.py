"""Colour of 16 bits, against tifffile and against Pillow's reader of 16-bit gray."""

import struct
import zlib

import numpy as np
import pytest
import samples
import tifffile

from miue_jax.pictures import decode, deep, metadata, png
from miue_jax.settings.errors import UserError

VALUES = samples.deep(np.random.default_rng(0), 37, 53)


@pytest.mark.parametrize("options", [
  {},
  {"byteorder": ">"},
  {"compression": "zlib"},
  {"compression": "zlib", "predictor": True},
  {"compression": "zlib", "predictor": True, "byteorder": ">"},
  {"compression": "zlib", "predictor": True, "tile": (16, 32)},
  {"tile": (16, 16)},
  {"rowsperstrip": 5},
])  # fmt: skip
def test_tiff(tmp_path, options):
  tifffile.imwrite(tmp_path / "x.tif", VALUES, photometric="rgb", **options)
  picture = decode.read(tmp_path / "x.tif")
  np.testing.assert_array_equal(picture.channels, VALUES)
  assert picture.notes == ()


def test_tiff_with_alpha(tmp_path):
  values = samples.deep(np.random.default_rng(0), channels=4)
  tifffile.imwrite(
    tmp_path / "x.tif", values, photometric="rgb", extrasamples=["unassalpha"], compression="zlib"
  )
  np.testing.assert_array_equal(decode.read(tmp_path / "x.tif").channels, values)


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("shape", [(37, 53), (1, 1), (2, 300)])
def test_png_there_and_back(channels, shape):
  values = samples.deep(np.random.default_rng(1), *shape, channels)
  file = png.encode(values)
  assert deep.is_deep_png(file)
  np.testing.assert_array_equal(deep.decode_png(file), values)
  np.testing.assert_array_equal(decode.decode(file, "x").channels, values)


def test_our_gray_is_read_by_pillow():
  file = png.encode(VALUES[..., :1])
  np.testing.assert_array_equal(decode.decode(file, "x").channels, VALUES[..., :1])


def by_the_standard(values, filters, interlaced=False):
  """Writes a PNG of 16-bit colour by the formulas of the standard, byte by byte."""
  height, width, count = values.shape
  passes = deep._PASSES if interlaced else ((0, 0, 1, 1),)
  raw = b""
  for x, y, dx, dy in passes:
    part = np.ascontiguousarray(values[y::dy, x::dx].astype(">u2"))
    if part.size == 0:
      continue
    rows = part.view(np.uint8).reshape(len(part), -1).astype(int)
    above = np.zeros_like(rows[0])
    for number, row in enumerate(rows):
      kind = filters[number % len(filters)]
      raw += bytes([kind]) + filtered(row, above, kind, 2 * count)
      above = row
  header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, int(interlaced))
  return png.assembled([(b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")])


def filtered(row, above, kind, size):
  result = bytearray()
  for place, value in enumerate(row):
    left = row[place - size] if place >= size else 0
    up, corner = above[place], above[place - size] if place >= size else 0
    estimate = left + up - corner
    nearest = min((left, up, corner), key=lambda c: abs(estimate - c))
    guess = (0, left, up, (left + up) // 2, nearest)[kind]
    result.append((value - guess) % 256)
  return bytes(result)


@pytest.mark.parametrize("filters", [[0], [1], [2], [3], [4], [4, 0, 3, 1, 2]])
def test_every_filter_of_png(filters):
  np.testing.assert_array_equal(deep.decode_png(by_the_standard(VALUES, filters)), VALUES)


@pytest.mark.parametrize("shape", [(37, 53), (1, 1), (3, 2), (9, 5)])
def test_interlaced_png(shape):
  values = VALUES[: shape[0], : shape[1]]
  np.testing.assert_array_equal(deep.decode_png(by_the_standard(values, [4, 1, 2], True)), values)


def test_a_cut_png_is_refused():
  file = png.encode(VALUES)
  with pytest.raises(UserError, match="x cannot be decoded"):
    decode.decode(file[: len(file) // 2], "x")
  assert metadata.split(file)[0][:8] == metadata.PNG
