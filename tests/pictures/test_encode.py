"""Tests which metadata published files keep and which they drop."""

import dataclasses
import io

import numpy as np
import pytest
import samples
from PIL import Image, ImageCms

from miue_jax.pictures import decode, encode
from miue_jax.pictures.decode import Picture

RNG = np.random.default_rng(0)
# Made once, because a profile contains the second in which it was made.
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SERIAL, MAKER_NOTE, LATITUDE = 0xA431, 0x927C, 2
OWNER, WINDOWS_AUTHOR, WINDOWS = 0xA430, 0x9C9D, "Zoe".encode("utf-16-le")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("make", [samples.soft, samples.deep])
def test_png_keeps_every_pixel(channels, make):
  picture = Picture(make(RNG, channels=channels))
  np.testing.assert_array_equal(
    decode.decode(encode.encode(picture), "x").channels, picture.channels
  )


@pytest.mark.parametrize("channels", [3, 4])
def test_webp_keeps_every_pixel_even_under_transparency(channels):
  picture = Picture(samples.soft(RNG, channels=channels))
  if channels == 4:
    picture.channels[:20, :, 3] = 0
  file = encode.encode(picture, "webp")
  np.testing.assert_array_equal(decode.decode(file, "x").channels, picture.channels)


@pytest.mark.parametrize(
  ("channels", "dtype", "wanted", "expected"),
  [
    ((4, 4, 3), np.uint8, "png", "png"),
    ((4, 4, 4), np.uint8, "webp", "webp"),
    ((4, 4, 3), np.uint16, "webp", "png"),
    ((4, 4, 4), np.uint8, "jpeg", "png"),
    ((4, 4, 1), np.uint8, "jpeg", "jpeg"),
    ((4, 16384, 1), np.uint8, "webp", "png"),
  ],
)
def test_formats_that_cannot_hold_a_picture(channels, dtype, wanted, expected):
  kind, why = encode.format_for(Picture(np.zeros(channels, dtype)), wanted)
  assert kind == expected
  assert (why is None) == (kind == wanted)


def original(kind):
  exif = Image.Exif()
  exif[0x013B], exif[0x8298], exif[0x010F] = (
    "Zo\u00eb".encode(),
    "\u00a9 Zo\u00eb".encode(),
    "Camera",
  )
  exif.get_ifd(0x8769).update({SERIAL: "12345", MAKER_NOTE: b"preview", OWNER: "Zoe, owner"})
  exif[WINDOWS_AUTHOR] = WINDOWS
  exif.get_ifd(0x8825).update({1: "N", LATITUDE: (50.0, 1.0, 2.0)})
  image = Image.fromarray(samples.soft(RNG))
  return decode.decode(samples.encoded(image, kind, exif=exif, icc_profile=PROFILE), "x")


@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("kind", sorted(encode.SUFFIX))
def test_author_and_profile_stay_places_and_serial_numbers_go(source, kind):
  picture = original(source)
  assert picture.credit == {"artist": "Zo\u00eb", "copyright": "\u00a9 Zo\u00eb"}
  file = encode.encode(picture, kind)
  again = decode.decode(file, "x")
  assert again.credit == picture.credit
  assert again.profile == PROFILE
  for secret in (b"12345", b"preview", b"Camera"):
    assert secret not in file
  with Image.open(io.BytesIO(file)) as image:
    assert set(image.getexif()) <= {0x013B, 0x8298}


@pytest.mark.parametrize("kind", sorted(encode.SUFFIX))
def test_keep_metadata_keeps_all_but_previews(kind):
  file = encode.encode(original("JPEG"), kind, keep_metadata=True)
  with Image.open(io.BytesIO(file)) as image:
    exif = image.getexif()
    assert exif[0x010F] == "Camera"
    assert exif.get_ifd(0x8769) == {SERIAL: "12345", OWNER: "Zoe, owner"}
    assert exif.get_ifd(0x8825)[LATITUDE] == (50.0, 1.0, 2.0)
    assert {0x013B, 0x8298, WINDOWS_AUTHOR} < set(exif)
  assert b"preview" not in file


@pytest.mark.parametrize("keep", [False, True])
def test_an_author_that_only_other_metadata_state_stays_beside_all_exif(keep):
  picture = dataclasses.replace(original("JPEG"), credit={"artist": "Ann"})
  exif = Image.Exif()
  exif[0x010F] = "Camera"
  exif.get_ifd(0x8825).update({1: "N", LATITUDE: (50.0, 1.0, 2.0)})
  picture = dataclasses.replace(picture, exif=exif.tobytes())
  file = encode.encode(picture, keep_metadata=keep)
  assert decode.decode(file, "x").credit == {"artist": "Ann"}
  with Image.open(io.BytesIO(file)) as image:
    found = image.getexif()
    assert found.get(0x010F) == ("Camera" if keep else None)
    assert found.get_ifd(0x8825).get(LATITUDE) == ((50.0, 1.0, 2.0) if keep else None)


@pytest.mark.parametrize("kind", sorted(encode.SUFFIX))
@pytest.mark.parametrize("keep", [False, True])
def test_drop_author_drops_every_name_and_nothing_else(kind, keep):
  file = encode.encode(original("JPEG"), kind, keep_metadata=keep, drop_author=True)
  again = decode.decode(file, "x")
  assert again.credit == {}
  assert again.profile == PROFILE
  for name in ("Zo\u00eb".encode(), b"Zoe, owner", WINDOWS):
    assert name not in file
  with Image.open(io.BytesIO(file)) as image:
    exif = image.getexif()
    assert exif.get(0x010F) == ("Camera" if keep else None)
    assert exif.get_ifd(0x8769) == ({SERIAL: "12345"} if keep else {})
    assert exif.get_ifd(0x8825).get(LATITUDE) == ((50.0, 1.0, 2.0) if keep else None)


def test_deep_png_keeps_profile_and_author():
  picture = Picture(samples.deep(RNG), PROFILE, credit={"artist": "Ann"})
  again = decode.decode(encode.encode(picture), "x")
  assert again.profile == PROFILE
  assert again.credit == {"artist": "Ann"}
