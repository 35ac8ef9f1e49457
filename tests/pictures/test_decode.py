"""Every suffix and mode, upright, with profiles, in spite of damaged metadata."""

import contextlib
import io
import os
import pathlib
import struct
import zlib

import numpy as np
import pytest
import samples
from PIL import Image, ImageCms, PngImagePlugin
from samples import UPRIGHT

from miue_jax.pictures import decode
from miue_jax.settings.errors import UserError

RNG = np.random.default_rng(0)
RGB, RGBA, GRAY = (samples.soft(RNG, channels=count) for count in (3, 4, 1))

LOSSLESS = [".png", ".tif", ".tiff", ".bmp", ".dib", ".ppm", ".pnm"]


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_every_lossless_suffix(tmp_path, suffix):
  path = tmp_path / f"x{suffix.upper()}"
  Image.fromarray(RGB).save(path)
  picture = decode.read(path)
  np.testing.assert_array_equal(picture.channels, RGB)
  assert picture.notes == ()
  assert suffix in decode.readable_suffixes()


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif"])
def test_every_lossy_suffix(tmp_path, suffix):
  path = tmp_path / f"x{suffix}"
  Image.fromarray(RGB).save(path)
  assert np.abs(decode.read(path).channels.astype(int) - RGB).mean() < 12
  assert suffix in decode.readable_suffixes()


@pytest.mark.parametrize("suffix", sorted({*decode.EXTRA_SUFFIXES} - {".dcm"}))
def test_avif_and_heic_where_they_are_installed(tmp_path, suffix):
  if suffix not in decode.readable_suffixes():
    pytest.skip(f"{suffix} is not installed")
  path = tmp_path / f"x{suffix}"
  Image.fromarray(RGB).save(path)
  assert np.abs(decode.read(path).channels.astype(int) - RGB).mean() < 12


def test_gray_formats(tmp_path):
  for suffix in (".png", ".pgm", ".tif", ".bmp"):
    Image.fromarray(GRAY[..., 0]).save(tmp_path / f"x{suffix}")
    np.testing.assert_array_equal(decode.read(tmp_path / f"x{suffix}").channels, GRAY)
  bits = GRAY[..., 0] > 100
  Image.fromarray(bits).save(tmp_path / "x.pbm")
  np.testing.assert_array_equal(decode.read(tmp_path / "x.pbm").channels[..., 0], 255 * bits)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_gray_of_16_bits(tmp_path, suffix):
  values = samples.deep(RNG, channels=1)
  Image.fromarray(values[..., 0]).save(tmp_path / f"x{suffix}")
  picture = decode.read(tmp_path / f"x{suffix}")
  assert picture.channels.dtype == np.uint16
  np.testing.assert_array_equal(picture.channels, values)


def test_alpha_is_kept_and_flattened_for_networks():
  picture = decode.decode(samples.encoded(Image.fromarray(RGBA)), "x")
  np.testing.assert_array_equal(picture.channels, RGBA)
  np.testing.assert_array_equal(picture.alpha, RGBA[..., 3])
  np.testing.assert_array_equal(picture.colour, RGBA[..., :3])
  weight = RGBA[..., 3:] / 255
  expected = RGBA[..., :3] * weight + 255 * (1 - weight)
  assert np.abs(decode.srgb(picture) - expected).max() <= 1


def test_palettes_become_rgb_or_rgba():
  image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
  image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
  opaque = decode.decode(samples.encoded(image), "x").channels
  np.testing.assert_array_equal(opaque, [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]])
  clear = decode.decode(samples.encoded(image, transparency=1), "x").channels
  np.testing.assert_array_equal(clear[..., 3], [[255, 0, 255]])


def test_cmyk_becomes_srgb_and_says_so():
  file = samples.encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=95)
  picture = decode.decode(file, "x")
  assert np.abs(picture.channels.astype(int) - [0, 255, 255]).max() <= 8
  assert picture.notes == ("CMYK converted to sRGB",)


def test_the_first_frame_of_an_animation_is_read_and_said():
  frames = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (10, 200, 90)]
  for kind in ("GIF", "PNG", "WEBP"):
    options = {"save_all": True, "append_images": frames[1:], "lossless": True}
    picture = decode.decode(samples.encoded(frames[0], kind, **options), "x")
    assert np.abs(picture.channels[..., 0].astype(int) - 10).max() <= 1
    assert picture.notes == ("the first of 3 frames",)


def exif_of(tags, order="<"):
  """Writes EXIF by hand: `(tag, type, count, bytes)`, values of more than 4 bytes at the end."""
  entries, extra, end = b"", b"", 8 + 2 + 12 * len(tags) + 4
  for tag, kind, count, value in tags:
    entries += struct.pack(order + "HHI", tag, kind, count)
    if len(value) <= 4:
      entries += value.ljust(4, b"\0")
    else:
      entries += struct.pack(order + "I", end + len(extra))
      extra += value
  head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags))
  return head + entries + b"\0\0\0\0" + extra


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pictures_are_turned_upright(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  picture = decode.decode(samples.encoded(Image.fromarray(RGB), exif=exif), "x")
  np.testing.assert_array_equal(picture.channels, UPRIGHT[orientation](RGB))
  assert 0x0112 not in dict(Image.Exif())
  assert b"\x12\x01" not in picture.exif


def test_a_broken_exif_value_stops_nothing_and_the_orientation_counts():
  # A signed rational in an unsigned tag, as in shared/faults/badexif.py.
  tags = [(0x112, 3, 1, struct.pack("<H", 6)), (0x11A, 10, 1, struct.pack("<ii", -5, 0))]
  file = samples.encoded(Image.fromarray(RGB), "JPEG", exif=b"Exif\0\0" + exif_of(tags))
  plain = decode.decode(samples.encoded(Image.fromarray(RGB), "JPEG"), "x").channels
  np.testing.assert_array_equal(decode.decode(file, "x").channels, np.rot90(plain, -1))


@pytest.mark.parametrize("seed", range(20))
def test_random_exif_stops_nothing(seed):
  rng = np.random.default_rng(seed)
  tags = [(0x112, 3, 1, struct.pack("<H", 1)), (0x8769, 4, 1, struct.pack("<I", 8))]
  raw = bytearray(exif_of(tags) + rng.bytes(40))
  for place in rng.integers(0, len(raw), 6):
    raw[place] = rng.integers(256)
  for kind in ("JPEG", "PNG", "WEBP"):
    file = samples.encoded(Image.fromarray(RGB), kind, exif=b"Exif\0\0" + bytes(raw))
    assert sorted(decode.decode(file, "x").channels.shape[:2]) == [40, 60]


def test_a_huge_text_stops_nothing():
  info = PngImagePlugin.PngInfo()
  info.add_text("workflow", "x" * 2_000_000, zip=True)
  file = samples.encoded(Image.fromarray(RGB), pnginfo=info)
  np.testing.assert_array_equal(decode.decode(file, "x").channels, RGB)


def test_a_huge_profile_is_dropped():
  body = b"ICC\0\0" + zlib.compress(bytes(2**25))
  chunk = struct.pack(">I", len(body)) + b"iCCP" + body
  chunk += struct.pack(">I", zlib.crc32(b"iCCP" + body))
  file = samples.encoded(Image.fromarray(RGB))
  picture = decode.decode(file[:33] + chunk + file[33:], "x")
  np.testing.assert_array_equal(picture.channels, RGB)
  assert picture.profile is None


def swapped_profile():
  """Returns sRGB with the curves and primaries of red and blue exchanged."""
  profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
  profile = profile.replace(b"rXYZ", b"tXYZ").replace(b"bXYZ", b"rXYZ").replace(b"tXYZ", b"bXYZ")
  return profile.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_profiles_are_kept_and_honoured(kind):
  profile = swapped_profile()
  file = samples.encoded(Image.fromarray(RGB), kind, icc_profile=profile)
  picture = decode.decode(file, "x")
  assert picture.profile == profile
  seen = decode.srgb(picture).astype(int)
  assert np.abs(seen - picture.channels[..., ::-1]).max() <= 2


def test_srgb_and_damaged_profiles_change_nothing():
  srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
  picture = decode.decode(samples.encoded(Image.fromarray(RGB), icc_profile=srgb), "x")
  np.testing.assert_array_equal(decode.srgb(picture), RGB)
  whole = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
  cut = samples.encoded(Image.fromarray(RGB), icc_profile=whole[: len(whole) // 2])
  assert decode.decode(cut, "x").profile is None  # it can be opened, but not used
  bad = decode.decode(samples.encoded(Image.fromarray(RGB), icc_profile=b"x" * 200), "x")
  np.testing.assert_array_equal(decode.srgb(bad), RGB)
  assert bad.profile is None
  assert bad.notes == ("its damaged colour profile was dropped",)
  gray = decode.decode(samples.encoded(Image.fromarray(GRAY[..., 0]), icc_profile=srgb), "x")
  assert gray.notes == ("its colour profile is for RGB and was dropped",)


def test_squashed_keeps_the_whole_picture():
  wide = np.zeros((10, 40, 3), np.uint8)
  wide[:, 20:] = 200
  seen = decode.squashed(decode.Picture(wide), 8)
  assert seen.shape == (8, 8, 3)
  assert (seen[:, :3] < 5).all()
  assert (seen[:, 5:] > 195).all()


@pytest.mark.parametrize("content", [b"", b"text", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xff\xd8"])
def test_what_is_no_picture_is_named(content):
  with pytest.raises(UserError, match="the file cannot be decoded"):
    decode.decode(content, "the file")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"])
def test_files_that_are_cut_or_altered_give_a_sentence(kind):
  file = samples.encoded(Image.fromarray(RGB), kind)
  for seed in range(25):
    rng = np.random.default_rng(seed)
    broken = bytearray(file[: rng.integers(1, len(file))] if seed % 2 else file)
    for place in rng.integers(0, len(broken), 3):
      broken[place] = rng.integers(256)
    with contextlib.suppress(UserError):  # anything else is a failure
      decode.decode(bytes(broken), "the file")


def test_too_many_pixels_are_refused(monkeypatch):
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
  with pytest.raises(UserError, match="too large to be decoded safely"):
    decode.decode(samples.encoded(Image.fromarray(RGB)), "x")


def test_pipes_and_missing_files_are_refused(tmp_path):
  os.mkfifo(tmp_path / "pipe.png")
  with pytest.raises(UserError, match=r"pipe.png: it is a named pipe"):
    decode.read(tmp_path / "pipe.png")
  with pytest.raises(UserError, match=r"Cannot read .*absent.png"):
    decode.read(tmp_path / "absent.png")


def test_header_reads_size_and_kind(tmp_path):
  path = pathlib.Path(tmp_path / "x.png")
  path.write_bytes(samples.encoded(Image.fromarray(GRAY[..., 0])))
  assert decode.header(path) == decode.Header(40, 60, True)
  assert decode.header(io.BytesIO(samples.encoded(Image.fromarray(RGB)))).gray is False
  deep = Image.fromarray(np.zeros((1, 1), np.uint16))
  assert decode.header(io.BytesIO(samples.encoded(deep))).gray


def test_large_pictures_wait_for_memory(tmp_path, monkeypatch):
  taken = []

  class Room:
    def take(self, size):
      taken.append(size)
      return contextlib.nullcontext()

  monkeypatch.setattr(decode, "_ROOM", Room())
  Image.fromarray(RGB).save(tmp_path / "x.png")
  (tmp_path / "broken.png").write_bytes(b"junk")
  for name in ("x.png", "broken.png", "absent.png"):
    with decode.room(tmp_path / name):
      pass
  assert taken == [decode._BYTES * RGB.shape[0] * RGB.shape[1], 0, 0]
