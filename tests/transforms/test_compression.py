"""Tests compression against Annex K of the JPEG standard, the luma formula and Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy import fft

from miue_jax.settings.errors import UserError
from miue_jax.transforms import bit_depth, grayscale, jpeg, random_transformation

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


def blocky(count, side, channels):
  """Returns uint8 images whose neighbouring pixels are similar, in blocks of 4 pixels."""
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (count, side // 4, side // 4, channels))
  fine = coarse.repeat(4, axis=1).repeat(4, axis=2) + rng.integers(-20, 20, (count, side, side, 1))
  return np.clip(fine, 0, 255).astype(np.uint8)


def smooth(count, height, width, channels):
  """Returns uint8 images that vary as photographs do, in colour as well."""
  rng = np.random.default_rng(0)
  coarse = rng.integers(40, 216, (count, -(-height // 8), -(-width // 8), channels))
  fine = np.asarray(
    jax.image.resize(coarse.astype(float), (count, height, width, channels), "cubic")
  )
  return np.clip(fine + rng.normal(0, 6, (count, height, width, 1)), 0, 255).astype(np.uint8)


def codec(image, quality):
  """Computes Annex K for one gray image: blocks, DCT, quantisation and back."""
  scale = 5000 // quality if quality < 50 else 200 - 2 * quality
  table = np.clip((LUMINANCE * scale + 50) // 100, 1, 255)
  blocks = image.astype(float).reshape(2, 8, 2, 8).transpose(0, 2, 1, 3) - 128
  coefficients = fft.dctn(blocks, axes=(2, 3), norm="ortho")
  pixels = fft.idctn(np.rint(coefficients / table) * table, axes=(2, 3), norm="ortho") + 128
  return np.clip(pixels.transpose(0, 2, 1, 3).reshape(16, 16), 0, 255)


@pytest.mark.parametrize("quality", [10, 50, 95])
def test_jpeg_of_a_stored_gray_image_follows_the_standard(quality):
  images = blocky(6, 16, 1)
  compressed = jpeg(images, quality)
  expected = np.stack([codec(image[..., 0], quality) for image in images])[..., None]
  difference = np.abs(compressed - expected)
  # The codec's DCT works in integers: some coefficients near a tie round to the other side.
  assert np.mean(difference <= 1) > 0.9
  assert difference.mean() < 0.5
  assert np.mean(np.abs(compressed.astype(int) - images) > 2) > 0.05


@pytest.mark.parametrize("quality", [10, 75])
def test_jpeg_of_a_stored_colour_image_is_pillows(quality, tmp_path):
  images = blocky(3, 16, 3)
  for compressed, image in zip(jpeg(images, quality), images, strict=True):
    Image.fromarray(image).save(tmp_path / "image.jpg", quality=quality)
    np.testing.assert_array_equal(compressed, np.asarray(Image.open(tmp_path / "image.jpg")))


def test_a_lower_quality_loses_more_and_colour_loses_first():
  images = blocky(20, 16, 3)
  losses = [np.abs(jpeg(images, q).astype(int) - images).mean() for q in (95, 50, 10)]
  assert losses == sorted(losses)
  # Colour has half the resolution, so stripes that differ only in hue vanish at any quality.
  stripes = np.zeros((1, 16, 16, 3), np.uint8)
  stripes[:, :, ::2], stripes[:, :, 1::2] = (140, 100, 100), (76, 133, 100)
  compressed = jpeg(stripes, 95)[0].astype(int)
  assert abs(compressed[4:12, 4:12:2, 0].mean() - compressed[4:12, 5:12:2, 0].mean()) < 10


@pytest.mark.long
@pytest.mark.parametrize("shape", [(32, 32, 3), (27, 19, 3), (24, 16, 1), (13, 21, 1)])
@pytest.mark.parametrize("quality", [10, 50, 90])
def test_differentiable_jpeg_is_close_to_the_codec(shape, quality):
  images = smooth(8, *shape)
  stored = jpeg(images, quality).astype(float)
  found = 255 * np.asarray(jpeg(jnp.array(images, jnp.float32) / 255, quality))
  assert found.shape == images.shape
  lost = np.abs(stored - images).mean()
  # The cube keeps up to an eighth of a quantisation step that the codec rounds away, and the codec
  # also rounds pixels and luma to integers.
  assert np.abs(found - stored).mean() < 0.3 * lost + 0.6


@pytest.mark.long
@pytest.mark.parametrize("shape", [(10, 16, 3), (8, 8, 1)])
def test_the_gradient_of_jpeg_is_that_of_differences(shape):
  rng = np.random.default_rng(1)
  with jax.enable_x64():
    images = jnp.array(rng.uniform(0.3, 0.7, (1, *shape)))
    target = jnp.array(rng.uniform(0, 1, (1, *shape)))

    def loss(x):
      return jnp.sum(target * jpeg(x, 30))

    gradient = np.asarray(jax.grad(loss)(images))
    assert np.abs(gradient).max() > 0.1
    for direction in rng.choice([-1.0, 1.0], (5, 1, *shape)):
      step = 1e-7 * direction
      slope = (loss(images + step) - loss(images - step)) / 2e-7
      assert np.sum(gradient * direction) == pytest.approx(float(slope), rel=1e-4)


@pytest.mark.parametrize("quality", [0, 96])
def test_a_quality_out_of_range_is_an_error(quality):
  with pytest.raises(UserError, match=f"JPEG quality {quality} is out of range: choose 1 to 95"):
    jpeg(blocky(1, 8, 3), quality)


@pytest.mark.parametrize("quality", ["50", 50.0])
def test_a_quality_that_is_not_an_integer_is_an_error(quality):
  with pytest.raises(UserError, match="an integer"):
    jpeg(blocky(1, 8, 3), quality)


@pytest.mark.parametrize("transform", [lambda x: jpeg(x, 50), grayscale])
def test_integers_of_another_size_are_an_error(transform):
  with pytest.raises(UserError, match="Images are int64: give uint8"):
    transform(blocky(1, 8, 3).astype(int))


@pytest.mark.parametrize(("kind", "bits"), [(np.float32, 3), (int, 3), ("u1", 0), ("u1", 9)])
def test_bit_depth_takes_stored_images_and_one_to_seven_bits(kind, bits):
  with pytest.raises(UserError, match="give uint8 values and 1 to 7 bits"):
    bit_depth(blocky(1, 8, 3).astype(kind), bits)


def test_grayscale_of_stored_images_is_the_luma_formula():
  images = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), np.uint8)
  gray = grayscale(images)
  luma = (images.astype(int) @ [19595, 38470, 7471] + 2**15) // 2**16  # .299, .587, .114
  np.testing.assert_array_equal(gray, np.repeat(luma[..., None], 3, axis=-1))
  assert gray.dtype == np.uint8


def test_grayscale_of_float_images_is_pillows_up_to_rounding():
  images = smooth(4, 8, 8, 3)
  found = 255 * np.asarray(grayscale(jnp.array(images, jnp.float32) / 255))
  np.testing.assert_allclose(found, grayscale(images), atol=0.51)


def test_gray_images_are_unchanged_by_grayscale():
  images = blocky(2, 8, 1)
  np.testing.assert_array_equal(grayscale(images), images)
  gray = jnp.array(images, jnp.float32)
  np.testing.assert_array_equal(grayscale(gray), gray)


@pytest.mark.parametrize("bits", [1, 2, 7])
def test_bit_depth_is_pillows_posterize(bits):
  images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
  reduced = bit_depth(images, bits)
  assert reduced.dtype == np.uint8
  assert len(np.unique(reduced)) == 2**bits
  np.testing.assert_array_equal(
    reduced[0], np.asarray(ImageOps.posterize(Image.fromarray(images[0]), bits))
  )


@pytest.mark.long
def test_every_image_is_transformed_by_its_own_draw():
  images = jnp.array(smooth(300, 8, 8, 3), jnp.float32) / 255
  keys = jax.random.split(jax.random.key(0), 300)
  transform = random_transformation(("none", "grayscale", "jpeg10"))
  found = transform(keys, images)
  candidates = np.stack([images, grayscale(images), jpeg(images, 10)])
  which = np.array(np.all(candidates == found[None], axis=(2, 3, 4)))
  assert (which.sum(axis=0) == 1).all()
  assert (np.abs(which.sum(axis=1) - 100) < 35).all()
  np.testing.assert_array_equal(transform(keys[50:60], images[50:60]), found[50:60])


@pytest.mark.parametrize("name", ["grey", "jpeg", "jpeg0", "jpeg96", "jpeg-1", ""])
def test_an_unknown_input_transformation_is_an_error(name):
  with pytest.raises(UserError, match=f"Unknown input transformation '{name}'; choose none, gray"):
    random_transformation(("none", name))


@pytest.mark.parametrize("transform", [grayscale, lambda x: jpeg(x, 50)])
def test_one_image_without_a_batch_axis_is_an_assertion(transform):
  with pytest.raises(AssertionError, match="rank"):
    transform(jnp.zeros((8, 8, 3)))
