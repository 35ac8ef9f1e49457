"""Provides TrivialAugment: one random operation of random strength for every image, on the device.

Mueller and Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation", ICCV 2021,
with its wide ranges: the operations of Pillow, each drawn with probability 1/14, at one of 31
strengths. Pixels stay floats, so results differ from Pillow's by its rounding to levels.
"""

import jax
import jax.numpy as jnp

from miue_jax.transforms.compression import LUMA
from miue_jax.transforms.hooks import Targets, assert_batch

GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
STRENGTHS = 31


def trivial_augment(
  keys: jax.Array, images: jax.Array, targets: Targets
) -> tuple[jax.Array, Targets]:
  """Applies one operation to every image, with random kind and strength.

  Args:
    keys: Random keys `[batch]`.
    images: Float images `[batch, height, width, 1 or 3]` in [0, 1].
    targets: Soft labels of the images.

  Returns:
    Images of the same shape, and the targets unchanged.
  """
  return transformed(keys, images), targets


def transformed(keys: jax.Array, images: jax.Array) -> jax.Array:
  """Returns the images of `trivial_augment`, for callers without labels."""
  assert_batch(keys, images)

  def one(key, image):
    which, strength, sign = jax.random.split(key, 3)
    return operation(
      image,
      jax.random.randint(which, (), 0, len(OPERATIONS)),
      jax.random.randint(strength, (), 0, STRENGTHS) / (STRENGTHS - 1),
      jax.random.rademacher(sign, dtype=jnp.float32),
    )

  return jax.vmap(one)(keys, images)


def operation(
  image: jax.Array, which: jax.Array, strength: jax.Array, sign: jax.Array
) -> jax.Array:
  """Applies one operation to one image.

  Args:
    image: Float image `[height, width, channel]` in [0, 1].
    which: Index in `OPERATIONS`.
    strength: Strength in [0, 1]; operations without strength ignore it.
    sign: Direction of a geometric operation, 1 or -1.

  Returns:
    A float image of the same shape.
  """
  image = _transform(image, _affine(image.shape, which, strength * sign))
  tonal = jnp.maximum(which - len(GEOMETRIC), 0)  # geometric operations select the identity
  return jax.lax.select_n(tonal, *(tone(image, strength) for tone in _TONES.values()))


def _affine(shape: tuple[int, ...], which: jax.Array, strength: jax.Array) -> jax.Array:
  """Returns the matrix `[2, 3]` from (x, y, 1) of the result to (x, y) of the image.

  The centre of the first pixel is (1/2, 1/2).
  """
  height, width = shape[:2]
  shear, shift, angle = 0.99 * strength, 32.0 * strength, -jnp.deg2rad(135.0 * strength)
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  zero, one = jnp.zeros(()), jnp.ones(())
  x, y = width / 2, height / 2
  rotation = [cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y]
  rows = [
    [one, shear, zero, zero, one, zero],
    [one, zero, zero, shear, one, zero],
    [one, zero, shift, zero, one, zero],
    [one, zero, zero, zero, one, shift],
    rotation,
    [one, zero, zero, zero, one, zero],
  ]
  matrices = jnp.stack([jnp.stack(row) for row in rows])
  return matrices[jnp.minimum(which, len(GEOMETRIC))].reshape(2, 3)


def _transform(image: jax.Array, affine: jax.Array) -> jax.Array:
  """Moves an image by an affine map with nearest neighbours; pixels from outside are black."""
  height, width = image.shape[:2]
  x, y = jnp.meshgrid(jnp.arange(width) + 0.5, jnp.arange(height) + 0.5)
  column, row = (
    jnp.floor(a * x + b * y + c).astype(jnp.int32) for a, b, c in (affine[0], affine[1])
  )
  inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
  moved = image[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
  return jnp.where(inside[..., None], moved, 0.0)


def _autocontrast(image, strength):
  del strength
  low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
  stretched = (image - low[None, None, :]) / jnp.maximum(high - low, 1e-6)[None, None, :]
  return jnp.where((high > low)[None, None, :], stretched, image)


def _equalized(channel: jax.Array) -> jax.Array:
  """Flattens the histogram of one channel `[height, width]`, as Pillow does."""
  levels = _levels(channel)
  histogram = jnp.zeros(256, jnp.int32).at[levels].add(1)
  step = (levels.size - histogram[levels.max()]) // 255
  table = (step // 2 + jnp.cumsum(histogram) - histogram) // jnp.maximum(step, 1)
  flat = jnp.minimum(table, 255)[levels] / 255
  return jnp.where(step > 0, flat, channel)


def _solarize(image, strength):
  threshold = 256 * (1 - strength)
  return jnp.where(_levels(image) < threshold, image, 1 - image)


def _posterize(image, strength):
  drop = jnp.round(6 * strength).astype(jnp.int32)  # bits
  return ((_levels(image) >> drop) << drop) / 255


def _sharpness(image, strength):
  # The blurred image keeps its border, as in Pillow.
  height, width = image.shape[:2]
  smooth = sum(
    (5 if (i, j) == (1, 1) else 1) * image[i : height - 2 + i, j : width - 2 + j]
    for i in range(3)
    for j in range(3)
  )
  return _enhanced(image.at[1:-1, 1:-1].set(smooth / 13), image, strength)


def _enhanced(without: jax.Array | float, image: jax.Array, strength: jax.Array) -> jax.Array:
  """Interpolates from `without` to `image` by a factor of 0.01 to 2; above 1 it extrapolates."""
  factor = 0.01 + 1.99 * strength
  return jnp.clip(without + factor * (image - without), 0.0, 1.0)


def _luma(image: jax.Array) -> jax.Array:
  """Returns the luma `[height, width, 1]` of an image."""
  if image.shape[-1] == 1:
    return image
  # Not `compression.grayscale`: its matrix product rounds differently in the last bit.
  return jnp.sum(image * jnp.array(LUMA)[None, None, :], axis=-1, keepdims=True)


def _levels(image: jax.Array) -> jax.Array:
  """Returns the integer levels 0 to 255 of a float image."""
  return jnp.round(255 * image).astype(jnp.int32)


# Operations on pixels by name, each a function of an image and a strength.
_TONES = {
  "identity": lambda image, strength: image,
  "autocontrast": _autocontrast,
  "equalize": lambda image, strength: jax.vmap(_equalized, 2, 2)(image),
  "solarize": _solarize,
  "posterize": _posterize,
  "colour": lambda image, strength: _enhanced(_luma(image), image, strength),
  "contrast": lambda image, strength: _enhanced(jnp.mean(_luma(image)), image, strength),
  "brightness": lambda image, strength: _enhanced(0.0, image, strength),
  "sharpness": _sharpness,
}
OPERATIONS = (*GEOMETRIC, *_TONES)
