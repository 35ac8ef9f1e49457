"""Squeezing against Annex K of the JPEG standard, the luma formula and Pillow."""

import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy import fft

from miue_jax import defences
from miue_jax.data.dataset import Split
from miue_jax.data.images import LazyImages
from miue_jax.defences import squeezing

# ITU-T T.81, table K.1: quantisation of luminance.
LUMINANCE = np.array(
  [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
  ]
)


def smooth(count, side, channels):
  """Images as photographs are: neighbouring pixels alike."""
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (count, side // 4, side // 4, channels))
  fine = coarse.repeat(4, axis=1).repeat(4, axis=2) + rng.integers(-20, 20, (count, side, side, 1))
  return np.clip(fine, 0, 255).astype(np.uint8)


def codec(image, quality):
  """Annex K by hand for one gray image: blocks, DCT, quantisation and back."""
  scale = 5000 // quality if quality < 50 else 200 - 2 * quality
  table = np.clip((LUMINANCE * scale + 50) // 100, 1, 255)
  blocks = image.astype(float).reshape(2, 8, 2, 8).transpose(0, 2, 1, 3) - 128
  coefficients = fft.dctn(blocks, axes=(2, 3), norm="ortho")
  pixels = fft.idctn(np.rint(coefficients / table) * table, axes=(2, 3), norm="ortho") + 128
  return np.clip(pixels.transpose(0, 2, 1, 3).reshape(16, 16), 0, 255)


@pytest.mark.parametrize("quality", [10, 50, 95])
def test_jpeg_of_a_gray_image_is_the_standards(quality):
  images = smooth(6, 16, 1)
  squeezed = squeezing.jpeg(images, quality)
  expected = np.stack([codec(image[..., 0], quality) for image in images])[..., None]
  difference = np.abs(squeezed - expected)
  # The codec's DCT works in integers: some coefficients near a tie round to the other side.
  assert np.mean(difference <= 1) > 0.9
  assert difference.mean() < 0.5
  assert np.mean(np.abs(squeezed.astype(int) - images) > 2) > 0.05


@pytest.mark.parametrize("quality", [10, 75])
def test_jpeg_of_a_colour_image_is_pillows(quality, tmp_path):
  images = smooth(3, 16, 3)
  for squeezed, image in zip(squeezing.jpeg(images, quality), images, strict=True):
    Image.fromarray(image).save(tmp_path / "image.jpg", quality=quality)
    np.testing.assert_array_equal(squeezed, np.asarray(Image.open(tmp_path / "image.jpg")))


def test_a_lower_quality_loses_more_and_colour_loses_first():
  images = smooth(20, 16, 3)
  losses = [np.abs(squeezing.jpeg(images, q).astype(int) - images).mean() for q in (95, 50, 10)]
  assert losses == sorted(losses)
  # Colour is stored at half the resolution: what alternates in hue alone is gone at any quality.
  stripes = np.zeros((1, 16, 16, 3), np.uint8)
  stripes[:, :, ::2], stripes[:, :, 1::2] = (140, 100, 100), (76, 133, 100)
  squeezed = squeezing.jpeg(stripes, 95)[0].astype(int)
  assert abs(squeezed[4:12, 4:12:2, 0].mean() - squeezed[4:12, 5:12:2, 0].mean()) < 10


def test_grayscale_is_the_luma_formula():
  images = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), np.uint8)
  gray = squeezing.grayscale(images)
  luma = (images.astype(int) @ [19595, 38470, 7471] + 2**15) // 2**16  # .299, .587, .114
  np.testing.assert_array_equal(gray, np.repeat(luma[..., None], 3, axis=-1))
  assert gray.dtype == np.uint8


def test_gray_images_are_gray_already():
  images = smooth(2, 8, 1)
  np.testing.assert_array_equal(squeezing.grayscale(images), images)


@pytest.mark.parametrize("bits", [1, 2, 7])
def test_bit_depth_is_pillows_posterize(bits):
  images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
  reduced = squeezing.bit_depth(images, bits)
  assert reduced.dtype == np.uint8
  assert len(np.unique(reduced)) == 2**bits
  np.testing.assert_array_equal(
    reduced[0], np.asarray(ImageOps.posterize(Image.fromarray(images[0]), bits))
  )


@pytest.mark.parametrize("name", ["jpeg30", "grayscale", "bits3"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_that_are_read_when_needed_are_the_same(name, channels):
  images, labels = smooth(7, 16, channels), np.arange(7, dtype=np.int32)
  preprocess = defences.build(name).preprocess
  held = preprocess(Split(images, labels), None, 0)
  lazy = LazyImages(lambda ids: images[ids], len(images), "lazy")
  late = preprocess(Split(lazy, labels), None, 0)
  assert not late.images.in_memory
  assert late.labels is held.labels is labels
  order = np.array([3, 0, 6])
  np.testing.assert_array_equal(late.images[order], held.images[order])
  assert held.images.shape == images.shape
  assert held.images.dtype == np.uint8
