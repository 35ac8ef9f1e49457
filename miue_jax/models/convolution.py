"""Convolutions that are fast on CPUs: minimal filtering where XLA's own are slow.

XLA's CPU backend reaches a fifth of a core's peak in the weight gradient of a 3x3 convolution, and
less for a 1x1 one with a stride. Minimal filtering (Winograd's; Lavin & Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016) needs fewer products and turns them into plain matrix
products. Tiles are made for a few images at a time, so that they stay in the core's cache. On other
devices, where a precision is asked for (`jax.default_matmul_precision`), and for every other
convolution, `convolve` is `lax.conv_general_dilated`.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_PIXELS = 2048  # of the activations whose tiles are made at a time
# Below these many channels, or pixels of the result, the products are too small to gain much, and
# to pay for the seconds that the compiler takes.
_NARROW, _SMALL = 24, 64
_WIDE, _LARGE = 64, 256  # the same in a forward pass

Matrix = tuple[tuple[float, ...], ...]


class _Filtering(NamedTuple):
  """F(m, 3): m outputs of a 3-tap filter g on data d are `output [(filter g) * (data d)]`."""

  data: Matrix
  filter: Matrix
  output: Matrix


_F1 = _Filtering(((1, 0, 0), (0, 1, 0), (0, 0, 1)), ((1, 0, 0), (0, 1, 0), (0, 0, 1)), ((1, 1, 1),))
# With less than half of the products, rounding errors are still those of a plain convolution.
_F2 = _Filtering(
  ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
  ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
  ((1, 1, 1, 0), (0, 1, -1, -1)),
)
# With a quarter of them, errors are about 1e-5 of the largest value: too much to pass through many
# layers, harmless in a weight gradient.
_F4 = _Filtering(
  (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
  ),
  (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
  ),
  ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
)


def convolve(lhs: jax.Array, rhs: jax.Array, window_strides, padding, **options) -> jax.Array:
  """As `jax.lax.conv_general_dilated`, whose arguments it takes; for Flax's `nn.Conv`.

  Args:
    lhs: `[batch, height, width, in]`.
    rhs: `[height, width, in, out]`; on CPUs 1x1 and 3x3 kernels are the fast ones,
    window_strides: with 1 or 2 in both directions
    padding: and with symmetric padding, so that a stride of 1 keeps the size.
    **options: further arguments of `conv_general_dilated`.
  """
  stride = window_strides[0]
  if not _fits(lhs, rhs, window_strides, padding, options):
    return jax.lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)
  if len(rhs) == 1:
    seen = lhs[:, ::stride, ::stride]
    return _product(seen, rhs[0, 0]).reshape(*seen.shape[:3], -1)
  # A custom gradient varies over devices as its argument does; that of the cast is the sum.
  return _convolve(lhs, _varying(rhs, _axes(lhs)), stride)


def _fits(lhs: jax.Array, rhs: jax.Array, strides, padding, options) -> bool:
  side, (_, height, width, channels) = len(rhs), lhs.shape
  border = [(side // 2, side // 2)] * 2
  stride = strides[0]
  return (
    jax.default_backend() == "cpu"
    and (options.get("precision") or jax.config.jax_default_matmul_precision) is None
    and lhs.dtype == rhs.dtype == jnp.float32
    and rhs.shape[:2] in ((1, 1), (3, 3))
    and tuple(strides) in ((1, 1), (2, 2))
    and (list(padding) == border or (padding == "SAME" and stride == 1))
    and all(options.get(name) in (None, (1, 1)) for name in ("lhs_dilation", "rhs_dilation"))
    and options.get("feature_group_count", 1) == 1
    and channels >= _NARROW
    and height * width >= _SMALL * stride**2
    and height % 4 == width % 4 == 0
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """3x3 convolution with a border of zeros: `[B, H, W, in]` -> `[B, H/stride, W/stride, out]`."""
  _, height, width, channels = images.shape
  wide = min(channels, kernel.shape[-1]) >= _WIDE and height * width >= _LARGE
  return _filtered(images, kernel) if wide and stride == 1 else _direct(images, kernel, stride)


def _forward(images, kernel, stride):
  return _convolve(images, kernel, stride), (images, kernel)


def _backward(stride, residuals, gradient):
  images, kernel = residuals
  if stride == 1:
    image_gradient = _convolve(gradient, jnp.swapaxes(kernel[::-1, ::-1], 2, 3), 1)
  else:
    transposed = jax.linear_transpose(lambda x: _direct(x, kernel, stride), images)
    (image_gradient,) = transposed(gradient)
  return image_gradient, _kernel_gradient(images, gradient, stride)


_convolve.defvjp(_forward, _backward)


def _direct(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  numbers = ("NHWC", "HWIO", "NHWC")
  return jax.lax.conv_general_dilated(
    images, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=numbers
  )


def _filtered(images: jax.Array, kernel: jax.Array) -> jax.Array:
  """As `_direct` with a stride of 1, by F(2, 3)."""
  filters = _sandwich("ai,ijcd,bj->abcd", _F2.filter, kernel)
  shape = (*images.shape[:3], kernel.shape[-1])

  def some(images):
    tiles = _transform(_F2.data, _bordered(images), 2)
    products = [
      [_product(*pair) for pair in zip(*rows, strict=True)]
      for rows in zip(tiles, filters, strict=True)
    ]
    columns = [_combine(_F2.output, column) for column in zip(*products, strict=True)]
    pixels = [_combine(_F2.output, row) for row in zip(*columns, strict=True)]
    grid = [[pixel.reshape(*tiles[0][0].shape[:3], -1) for pixel in row] for row in pixels]
    y = jnp.stack([jnp.stack(row, axis=3) for row in grid], axis=2)
    return y.reshape(len(images), *shape[1:])

  return jax.lax.map(some, _in_parts(images, 1)).reshape(shape)


def _kernel_gradient(images: jax.Array, gradient: jax.Array, stride: int) -> jax.Array:
  """Gradient of a kernel, `[3, 3, in, out]`, from images and the gradient of their outputs."""
  channels, out = images.shape[-1], gradient.shape[-1]
  filtering = _F4 if stride == 1 else _F1
  size, taps = len(filtering.output), len(filtering.data)

  def add(sums, part):
    images, gradient = part
    tiles = _transform(filtering.data, _bordered(images), size * stride)
    weights = _transform(tuple(zip(*filtering.output, strict=True)), gradient, size)
    products = [
      [_product(x.reshape(-1, channels).T, y) for x, y in zip(*rows, strict=True)]
      for rows in zip(tiles, weights, strict=True)
    ]
    return sums + jnp.stack([jnp.stack(row) for row in products]), None

  start = _varying(jnp.zeros((taps, taps, channels, out)), _axes(images) | _axes(gradient))
  sums, _ = jax.lax.scan(add, start, (_in_parts(images, 1), _in_parts(gradient, stride)))
  return _sandwich("ai,abcd,bj->ijcd", filtering.filter, sums)


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
  """Product of two matrices; all axes but the last of each are one. XLA is slow with more."""
  return jnp.dot(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]))


def _bordered(images: jax.Array) -> jax.Array:
  return jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _in_parts(x: jax.Array, stride: int) -> jax.Array:
  """`[B, H, W, C]` -> `[parts, images, H, W, C]`; a part is `_PIXELS`, seen with this stride."""
  batch, height, width, _ = x.shape
  most = max(_PIXELS // (height * width * stride**2), 1)
  size = max(size for size in range(1, min(most, batch) + 1) if batch % size == 0)
  return x.reshape(batch // size, size, *x.shape[1:])


def _transform(matrix: Matrix, x: jax.Array, step: int) -> list[list[jax.Array]]:
  """`matrix tile matrix'` of all tiles of `[B, H, W, C]`, which start `step` pixels apart.

  Returns:
    For each entry of the result an array `[B, rows, columns, C]` over the tiles.
  """
  taps = len(matrix[0])

  def along(axis: int, x: jax.Array) -> list[jax.Array]:
    end = x.shape[axis] - taps + 1
    parts = [jax.lax.slice_in_dim(x, tap, end + tap, step, axis) for tap in range(taps)]
    return _combine(matrix, parts)

  return [along(2, row) for row in along(1, x)]


def _combine(matrix: Matrix, parts: Sequence[jax.Array]) -> list[jax.Array]:
  """The product of `matrix` with the vector of arrays `parts`; factors of 0 are left out."""
  results = []
  for weights in matrix:
    first, *others = [w * part for w, part in zip(weights, parts, strict=True) if w]
    results.append(sum(others, start=first))
  return results


def _sandwich(subscripts: str, matrix: Matrix, x: jax.Array) -> jax.Array:
  matrix = np.array(matrix, np.float32)
  return jnp.einsum(subscripts, matrix, x, matrix, precision="highest")


def _axes(x: jax.Array) -> frozenset[str]:
  """The axes of the mesh over which `x` varies, inside `jax.shard_map`."""
  return jax.typeof(x).manual_axis_type.varying


def _varying(x: jax.Array, axes: frozenset[str]) -> jax.Array:
  """`x`, as something that varies over `axes`."""
  new = tuple(axes - _axes(x))
  return jax.lax.pcast(x, new, to="varying") if new else x
