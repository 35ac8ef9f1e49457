import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from samples import UPRIGHT

from miue_jax.data import pixels
from miue_jax.settings.errors import UserError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 4, 3), np.uint8)
GRAY = RNG.integers(0, 256, (6, 4, 1), np.uint8)


def encoded(image, kind="PNG", **options):
  file = io.BytesIO()
  image.save(file, kind, **options)
  file.seek(0)
  return file


def decode(file, gray=False, size=0):
  return pixels.decode(file, "the picture", gray=gray, size=size)


def png(width, height, bit_depth, colour_type, rows):
  """Writes a PNG by hand, so that the test does not depend on Pillow's writer."""

  def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

  header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
  body = zlib.compress(b"".join(b"\0" + row for row in rows))
  return io.BytesIO(
    b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
  )


@pytest.mark.parametrize("channels", [1, 3])
def test_resize_keeps_a_constant_image_constant(channels):
  images = np.full((2, 9, 13, channels), 77, np.uint8)
  resized = pixels.resize(images, 5)
  assert resized.shape == (2, 5, 5, channels)
  assert (resized == 77).all()


@pytest.mark.parametrize(("axis", "side"), [(1, 30), (2, 30), (1, 34), (2, 34)])
def test_resize_crops_the_centre(axis, side):
  images = RNG.integers(0, 256, (1, 10, 10, 3), np.uint8)
  margin = (side - 10) // 2
  padding = [(0, 0)] * 4
  padding[axis] = (margin, margin)
  np.testing.assert_array_equal(pixels.resize(np.pad(images, padding), 10), images)


def test_resize_scales_a_ramp_linearly():
  # The filter reproduces straight lines. Pixel k of the half-size image is between pixels 2k and
  # 2k + 1, with the value 4 * (2k + 0.5).
  ramp = np.broadcast_to((4 * np.arange(48)).astype(np.uint8), (48, 48))[None, :, :, None]
  resized = pixels.resize(ramp, 24)[0, :, :, 0]
  expected = np.broadcast_to(8 * np.arange(24) + 2, (24, 24))
  np.testing.assert_array_equal(resized[:, 2:-2], expected[:, 2:-2])


def test_resize_does_not_alias():
  # Dropping pixels would leave a checkerboard black or white; averaging makes it gray.
  board = (255 * (np.indices((64, 64)).sum(0) % 2)).astype(np.uint8)[None, :, :, None]
  inner = pixels.resize(board, 16)[0, 2:-2, 2:-2]
  assert np.abs(inner.astype(float) - 127.5).max() < 3


def test_resize_zero_and_the_same_size_change_nothing():
  images = RNG.integers(0, 256, (2, 5, 5, 1), np.uint8)
  np.testing.assert_array_equal(pixels.resize(images, 0), images)
  np.testing.assert_array_equal(pixels.resize(images, 5), images)


@pytest.mark.parametrize(
  ("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})]
)
def test_decode_of_a_lossless_file_is_exact(kind, options):
  np.testing.assert_array_equal(decode(encoded(Image.fromarray(RGB), kind, **options)), RGB)


def test_decode_gray_and_gray_as_rgb():
  file = encoded(Image.fromarray(GRAY[..., 0]))
  np.testing.assert_array_equal(decode(file, gray=True), GRAY)
  file.seek(0)
  np.testing.assert_array_equal(decode(file), np.repeat(GRAY, 3, axis=2))


def test_decode_bilevel():
  bits = np.array([[0, 1], [1, 0]], bool)
  decoded = decode(encoded(Image.fromarray(bits)), gray=True)
  np.testing.assert_array_equal(decoded[..., 0], 255 * bits)


def test_decode_puts_transparent_pixels_on_white():
  alpha = RNG.integers(0, 256, (6, 4, 1), np.uint8)
  weight = alpha / 255
  expected = RGB * weight + 255 * (1 - weight)
  decoded = decode(encoded(Image.fromarray(np.concatenate([RGB, alpha], 2))))
  assert np.abs(decoded - expected).max() <= 1


def test_decode_gray_with_alpha():
  pair = np.array([[[0, 0], [100, 255]]], np.uint8)
  decoded = decode(encoded(Image.fromarray(pair, "LA")))
  np.testing.assert_array_equal(decoded, [[[255] * 3, [100] * 3]])


def test_decode_palette_with_and_without_a_transparent_entry():
  image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
  image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
  opaque = [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
  np.testing.assert_array_equal(decode(encoded(image))[0], opaque)
  see_through = [[10, 20, 30], [255, 255, 255], [70, 80, 90]]
  np.testing.assert_array_equal(decode(encoded(image, transparency=1))[0], see_through)


def test_decode_sixteen_bit_gray_rounds_to_the_nearest_of_256_levels():
  values = np.array([0, 128, 129, 257, 1000, 32768, 65278, 65407, 65535])
  rows = [values.astype(">u2").tobytes()]
  decoded = decode(png(len(values), 1, 16, 0, rows), gray=True)
  np.testing.assert_array_equal(decoded[0, :, 0], np.rint(values / 257))


def test_decode_sixteen_bit_rgb_is_within_one_level():
  values = np.array([0, 1000, 30000, 45678, 60000, 65535])
  decoded = decode(png(2, 1, 16, 2, [values.astype(">u2").tobytes()]))
  assert np.abs(decoded.ravel() - values / 257).max() <= 1


def test_decode_cmyk_jpeg():
  file = encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=95)
  assert np.abs(decode(file).astype(int) - [0, 255, 255]).max() <= 8


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_decode_turns_images_upright(kind, options, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  decoded = decode(encoded(Image.fromarray(RGB), kind, exif=exif, **options))
  np.testing.assert_array_equal(decoded, UPRIGHT[orientation](RGB))


def test_decode_resizes_after_turning():
  wide = np.zeros((4, 8, 3), np.uint8)
  wide[:, 2:6] = 200
  exif = Image.Exif()
  exif[0x0112] = 6
  decoded = decode(encoded(Image.fromarray(wide), exif=exif), size=4)
  assert decoded.shape == (4, 4, 3)
  assert (decoded == 200).all()


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"not an image",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
    encoded(Image.fromarray(RGB), "ICO").getvalue(),
    encoded(Image.fromarray(RGB), "PDF").getvalue(),
    encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)), "JPEG").getvalue()[:900],
    encoded(Image.fromarray(RGB)).getvalue()[:60],
  ],
  ids=["empty", "text", "eps", "ico", "pdf", "cut jpeg", "cut png"],
)
def test_a_file_that_does_not_decode_is_named(content):
  with pytest.raises(UserError, match=r"the picture cannot be decoded"):
    decode(io.BytesIO(content))


def test_a_decompression_bomb_is_refused(monkeypatch):
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
  with pytest.raises(UserError, match=r"the picture is too large"):
    decode(encoded(Image.fromarray(RGB)))


def fetch_from(arrays, calls=None):
  def fetch(part):
    if calls is not None:
      calls.append(part)
    names = [f"image {index}" for index in range(len(arrays))]
    files = [encoded(Image.fromarray(array)) for array in arrays[part]]
    return list(zip(files, names[part], strict=True))

  return fetch


def test_decode_all_keeps_the_order_over_many_chunks():
  arrays = RNG.integers(0, 256, (333, 3, 2, 3), np.uint8)
  np.testing.assert_array_equal(
    pixels.decode_all(fetch_from(arrays), 333, gray=False, size=0), arrays
  )


def test_decode_all_of_nothing_has_the_right_shape():
  assert pixels.decode_all(fetch_from([]), 0, gray=True, size=7).shape == (0, 7, 7, 1)


def test_decode_all_says_how_to_resize_images_to_one_size():
  arrays = [np.zeros((4, 5, 3), np.uint8)] * 70 + [np.zeros((5, 4, 3), np.uint8)]
  with pytest.raises(UserError, match=r"image 70 is 4 x 5 pixels but image 0 is 5 x 4.*data.size"):
    pixels.decode_all(fetch_from(arrays), 71, gray=False, size=0)


def test_decode_all_stops_soon_after_an_error():
  calls = []
  arrays = [np.zeros((2, 2, 3), np.uint8)] * 66 + [np.zeros((3, 2, 3), np.uint8)] * 20_000
  with pytest.raises(UserError, match=r"image 66"):
    pixels.decode_all(fetch_from(arrays, calls), len(arrays), gray=False, size=0)
  assert len(calls) < 100
