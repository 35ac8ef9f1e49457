"""Tests the operations of TrivialAugment against those of Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from miue_jax.transforms import trivialaugment

HEIGHT, WIDTH = 20, 24
STEPS = range(0, 31, 3)

apply = jax.jit(trivialaugment.operation)


def picture(channels):
  """Returns a gradient with noise, without full range, and with a dark and a bright corner."""
  rng = np.random.default_rng(0)
  ramp = np.linspace(30, 200, WIDTH)[None, :, None] + np.linspace(-20, 20, HEIGHT)[:, None, None]
  image = ramp + rng.integers(-10, 10, (HEIGHT, WIDTH, channels))
  image[:4, :4], image[-4:, -4:] = 20, 230
  return image.astype(np.uint8)


def pillow(image, name, strength, sign):
  """Applies an operation by Pillow, with the ranges of the paper."""
  picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
  factor = 0.01 + 1.99 * strength
  move = {
    "shear_x": (1, 0.99 * strength * sign, 0, 0, 1, 0),
    "shear_y": (1, 0, 0, 0.99 * strength * sign, 1, 0),
    "translate_x": (1, 0, 32 * strength * sign, 0, 1, 0),
    "translate_y": (1, 0, 0, 0, 1, 32 * strength * sign),
  }
  if name in move:
    result = picture.transform(picture.size, Image.Transform.AFFINE, move[name])
  else:
    result = {
      "identity": lambda: picture,
      "rotate": lambda: picture.rotate(135 * strength * sign),
      "autocontrast": lambda: ImageOps.autocontrast(picture),
      "equalize": lambda: ImageOps.equalize(picture),
      "solarize": lambda: ImageOps.solarize(picture, 256 * (1 - strength)),
      "posterize": lambda: ImageOps.posterize(picture, 8 - round(6 * strength)),
      "colour": lambda: ImageEnhance.Color(picture).enhance(factor),
      "contrast": lambda: ImageEnhance.Contrast(picture).enhance(factor),
      "brightness": lambda: ImageEnhance.Brightness(picture).enhance(factor),
      "sharpness": lambda: ImageEnhance.Sharpness(picture).enhance(factor),
    }[name]()
  return np.asarray(result).reshape(image.shape)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", trivialaugment.OPERATIONS)
def test_an_operation_equals_pillows(name, channels):
  image, which = picture(channels), trivialaugment.OPERATIONS.index(name)
  changed = False
  for step in STEPS:
    for sign in (1, -1) if name in trivialaugment.GEOMETRIC else (1,):
      result = apply(jnp.float32(image / 255), which, jnp.float32(step / 30), jnp.float32(sign))
      expected = pillow(image, name, step / 30, sign).astype(float)
      # Pillow rounds to levels, and may choose the other of two equally near neighbours.
      fine = np.abs(255 * np.asarray(result) - expected) <= 2.001
      assert fine.mean() > 0.95, (step, sign)
      changed |= bool((expected != image).any())
  assert changed == (name != "identity" and (name, channels) != ("colour", 1))


@pytest.mark.long
def test_operations_and_strengths_are_uniform():
  count = 14 * 200
  keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(count))
  drawn = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      trivialaugment, "operation", lambda *args: jnp.stack([*args[1:], args[0][0, 0, 0]])
    )
    drawn = np.asarray(trivialaugment.trivial_augment(keys, jnp.zeros((count, 1, 1, 1)), None)[0])
  which, strength, sign, _ = drawn.T
  # Chi-squared with 13 and 30 degrees of freedom exceeds 34.5 and 59.7 once in a thousand.
  for values, kinds, limit in ((which, 14, 34.5), (np.rint(30 * strength), 31, 59.7)):
    found = np.bincount(values.astype(int), minlength=kinds)
    assert ((found - count / kinds) ** 2 / (count / kinds)).sum() < limit
  assert abs(sign.mean()) < 0.08
  assert set(np.unique(sign)) == {-1, 1}


@pytest.mark.long
def test_results_do_not_depend_on_the_number_of_devices(batch, augmented):
  augment = trivialaugment.trivial_augment
  images, soft = augmented(augment, *batch)
  for devices in (2, 4):
    others, other_soft = augmented(augment, *batch, devices=devices)
    np.testing.assert_allclose(others, images, atol=1e-6)
    np.testing.assert_array_equal(other_soft, soft)
  np.testing.assert_array_equal(soft, np.eye(4)[batch[2]])
  assert images.min() >= 0
  assert images.max() <= 1
  assert np.abs(images - batch[1]).max() > 0.1
