"""Provides convolutions that are fast on CPUs, by minimal filtering.

XLA's CPU backend reaches a fifth of a core's peak in the weight gradient of a 3x3 convolution, and
less for a 1x1 convolution with a stride. Minimal filtering (Winograd's; Lavin & Gray, "Fast
Algorithms for Convolutional Neural Networks", CVPR 2016) needs fewer products and turns them into
plain matrix products. Tiles are made for a few images at a time, so that they stay in the core's
cache. On other devices, under `jax.default_matmul_precision` and for all other convolutions,
`convolve` calls `lax.conv_general_dilated`.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from miue_jax.machine import cpu

_PIXELS = 2048  # of activations whose tiles are made at the same time
# With fewer channels or fewer values per image the products are small. They gain less time than the
# compiler needs.
_NARROW, _SMALL = 24, 1536
_WIDE = 48  # input and output channels from which outputs gain, too, not only kernel gradients

Matrix = tuple[tuple[float, ...], ...]


class _Filtering(NamedTuple):
  """Defines F(m, 3): m outputs of a 3-tap filter g on data d, `output [(filter g) * (data d)]`."""

  data: Matrix
  filter: Matrix
  output: Matrix


_F1 = _Filtering(((1, 0, 0), (0, 1, 0), (0, 0, 1)), ((1, 0, 0), (0, 1, 0), (0, 0, 1)), ((1, 1, 1),))
# F(4, 3) needs a quarter of the products. Errors are about 1e-5 of the largest value: ten times
# those of a plain convolution in float32, a hundredth of those in TF32, the default on GPUs.
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
  """Computes `jax.lax.conv_general_dilated`, for Flax's `nn.Conv`.

  On CPUs it is fast for 1x1 and 3x3 kernels with a stride of 1 or 2 in both directions and with
  symmetric padding, so that a stride of 1 keeps the size.

  Args:
    lhs: Activations `[batch, height, width, in]`.
    rhs: Kernel `[height, width, in, out]`.
    window_strides: As in `conv_general_dilated`.
    padding: As in `conv_general_dilated`.
    **options: Further arguments of `conv_general_dilated`.
  """
  stride = window_strides[0]
  if not _fits(lhs, rhs, window_strides, padding, options):
    return jax.lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)
  if len(rhs) == 1:
    seen = lhs[:, ::stride, ::stride]
    # XLA multiplies matrices faster than arrays of several axes.
    return jnp.dot(seen.reshape(-1, seen.shape[3]), rhs[0, 0]).reshape(*seen.shape[:3], -1)
  # A custom gradient must vary over the same mesh axes as its argument. The gradient of the cast
  # is the sum over devices.
  return _convolve(lhs, _varying(rhs, _axes(lhs)), stride)


def _fits(lhs: jax.Array, rhs: jax.Array, strides, padding, options) -> bool:
  side, (_, height, width, channels) = len(rhs), lhs.shape
  border = [(side // 2, side // 2)] * 2
  stride = strides[0]
  precision = jax.config.jax_default_matmul_precision  # pyrefly: ignore[missing-attribute]
  return (
    cpu.in_use()
    and (options.get("precision") or precision) is None
    and lhs.dtype == rhs.dtype == jnp.float32
    and rhs.shape[:2] in ((1, 1), (3, 3))
    and tuple(strides) in ((1, 1), (2, 2))
    and (list(padding) == border or (padding == "SAME" and stride == 1))
    and all(options.get(name) in (None, (1, 1)) for name in ("lhs_dilation", "rhs_dilation"))
    and options.get("feature_group_count", 1) == 1
    and channels >= _NARROW
    and height * width * channels >= _SMALL * stride**2
    and height % 4 == width % 4 == 0
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """Convolves `[B, H, W, in]` with 3x3 and a border of zeros, to `[B, H/stride, W/stride, out]`."""
  if _wide(kernel, stride):
    return _filtered(images, kernel, "itc,ico->ito")
  return _direct(images, kernel, stride)


def _forward(images, kernel, stride):
  return _convolve(images, kernel, stride), (images, kernel)


def _backward(stride, residuals, gradient):
  images, kernel = residuals
  if _wide(kernel, stride):
    # The einsum transposes the kernel: a transposed copy would be slow.
    image_gradient = _filtered(gradient, kernel[::-1, ::-1], "ito,ico->itc")
  else:
    transposed = jax.linear_transpose(lambda x: _direct(x, kernel, stride), images)
    (image_gradient,) = transposed(gradient)
  return image_gradient, _kernel_gradient(images, gradient, stride)


_convolve.defvjp(_forward, _backward)


def _wide(kernel: jax.Array, stride: int) -> bool:
  return stride == 1 and min(kernel.shape[2:]) >= _WIDE


def _direct(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  numbers = ("NHWC", "HWIO", "NHWC")
  return jax.lax.conv_general_dilated(
    images, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=numbers
  )


def _filtered(images: jax.Array, kernel: jax.Array, product: str) -> jax.Array:
  """Convolves with a stride of 1 by F(4, 3).

  Args:
    images: Activations `[batch, height, width, channels]`.
    kernel: `[3, 3, in, out]`.
    product: Subscripts of `jnp.einsum` for tiles `[entry, tile, channels]` and filters
      `[entry, in, out]`.
  """
  batch, height, width, channels = images.shape
  size = len(_F4.output)
  filters = _both(_F4.filter, kernel)
  parts = _in_parts(images, 1)
  grid = (parts.shape[1], height // size, 1, width // size, 1, -1)

  def add(part, outputs):
    images = jax.lax.dynamic_index_in_dim(parts, part, keepdims=False)
    tiles = _tiles(_F4.data, _bordered(images), size)
    products = [
      jnp.einsum(product, x.reshape(len(x), -1, channels), y)
      for x, y in zip(tiles, filters, strict=True)
    ]
    # The tiles are written pixel by pixel: XLA does not vectorise loops that concatenate them.
    for column, entries in enumerate(_combine(_F4.output, products)):
      for row, pixels in enumerate(_combine(_F4.output, list(entries))):
        start = (part * parts.shape[1], 0, row, 0, column, 0)
        outputs = jax.lax.dynamic_update_slice(outputs, pixels.reshape(grid), start)
    return outputs

  out = kernel.size // (9 * channels)
  outputs = jnp.zeros((batch, height // size, size, width // size, size, out))
  outputs = jax.lax.fori_loop(0, len(parts), add, _varying(outputs, _axes(images)))
  return outputs.reshape(batch, height, width, out)


def _kernel_gradient(images: jax.Array, gradient: jax.Array, stride: int) -> jax.Array:
  """Returns the gradient of a kernel, `[3, 3, in, out]`, from images and gradients of outputs."""
  channels, out = images.shape[-1], gradient.shape[-1]
  filtering = _F4 if stride == 1 else _F1
  size, taps = len(filtering.output), len(filtering.data)

  def add(sums, part):
    images, gradient = part
    tiles = _tiles(filtering.data, _bordered(images), size * stride)
    weights = _tiles(_transposed(filtering.output), gradient, size)
    products = [
      jnp.einsum("itc,ito->ico", x.reshape(taps, -1, channels), y.reshape(taps, -1, out))
      for x, y in zip(tiles, weights, strict=True)
    ]
    return [total + product for total, product in zip(sums, products, strict=True)], None

  start = _varying(jnp.zeros((taps, channels, out)), _axes(images) | _axes(gradient))
  parts = _in_parts(images, 1), _in_parts(gradient, stride)
  sums, _ = jax.lax.scan(add, [start] * taps, parts)
  return jnp.stack(_both(_transposed(filtering.filter), jnp.stack(sums)))


def _bordered(images: jax.Array) -> jax.Array:
  return jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _in_parts(x: jax.Array, stride: int) -> jax.Array:
  """Splits `[B, H, W, C]` into `[parts, images, H, W, C]` of at most `_PIXELS` output pixels."""
  batch, height, width, _ = x.shape
  most = max(_PIXELS // (height * width * stride**2), 1)
  size = max(size for size in range(1, min(most, batch) + 1) if batch % size == 0)
  return x.reshape(batch // size, size, *x.shape[1:])


def _tiles(matrix: Matrix, x: jax.Array, step: int) -> list[jax.Array]:
  """Computes `matrix tile matrix'` for all tiles of `[B, H, W, C]`, one every `step` pixels.

  Returns:
    The columns of the result, each an array `[entries, B, rows, columns, C]` over the tiles.
  """
  taps = len(matrix[0])

  def along(axis: int, x: jax.Array) -> list[jax.Array]:
    end = x.shape[axis] - taps + 1
    parts = [jax.lax.slice_in_dim(x, tap, end + tap, step, axis) for tap in range(taps)]
    return _combine(matrix, parts)

  return along(3, jnp.stack(along(1, x)))


def _both(matrix: Matrix, x: jax.Array) -> list[jax.Array]:
  """Computes the columns of `matrix x matrix'` over the first two axes of `x`."""
  rows = jnp.stack(_combine(matrix, list(x)))
  return _combine(matrix, list(jnp.moveaxis(rows, 1, 0)))


def _combine(matrix: Matrix, parts: Sequence[jax.Array]) -> list[jax.Array]:
  """Multiplies `matrix` by the vector of arrays `parts`; skips factors of 0."""
  results = []
  for weights in matrix:
    first, *others = [w * part for w, part in zip(weights, parts, strict=True) if w]
    results.append(sum(others, start=first))
  return results


def _transposed(matrix: Matrix) -> Matrix:
  return tuple(zip(*matrix, strict=True))


def _axes(x: jax.Array) -> frozenset[str]:
  """Returns the mesh axes over which `x` varies inside `jax.shard_map`."""
  return jax.typeof(x).manual_axis_type.varying


def _varying(x: jax.Array, axes: frozenset[str]) -> jax.Array:
  """Casts `x` to vary over the mesh axes `axes`."""
  new = tuple(axes - _axes(x))
  return jax.lax.pcast(x, new, to="varying") if new else x
