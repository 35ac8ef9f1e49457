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

_PIXELS = 2048  # of the activations whose tiles are made at a time
# With fewer channels, or fewer values of an image, the products are too small to gain much, and to
# pay for the seconds that the compiler takes.
_NARROW, _SMALL = 24, 1536
_WIDE = 48  # channels in and out from which outputs gain as well, not only gradients of kernels

Matrix = tuple[tuple[float, ...], ...]


class _Filtering(NamedTuple):
  """F(m, 3): m outputs of a 3-tap filter g on data d are `output [(filter g) * (data d)]`."""

  data: Matrix
  filter: Matrix
  output: Matrix


_F1 = _Filtering(((1, 0, 0), (0, 1, 0), (0, 0, 1)), ((1, 0, 0), (0, 1, 0), (0, 0, 1)), ((1, 1, 1),))
# A quarter of the products. Errors are about 1e-5 of the largest value, ten times those of a plain
# convolution in float32 and a hundredth of those in TF32, which GPUs use unless told otherwise.
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
    and height * width * channels >= _SMALL * stride**2
    and height % 4 == width % 4 == 0
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """3x3 convolution with a border of zeros: `[B, H, W, in]` -> `[B, H/stride, W/stride, out]`."""
  if _wide(kernel, stride):
    return _filtered(images, kernel, "itc,ico->ito")
  return _direct(images, kernel, stride)


def _forward(images, kernel, stride):
  return _convolve(images, kernel, stride), (images, kernel)


def _backward(stride, residuals, gradient):
  images, kernel = residuals
  if _wide(kernel, stride):
    # The product with the transposed kernel: to transpose it first is slow.
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
  """As `_direct` with a stride of 1, by F(4, 3).

  Args:
    images: `[batch, height, width, channels]`.
    kernel: `[3, 3, in, out]`.
    product: of tiles `[entry, tile, channels]` and filters `[entry, in, out]`, as for `jnp.einsum`.
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
    # Pixel by pixel of the tiles: where XLA concatenates them, no loop is vectorised.
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
  """Gradient of a kernel, `[3, 3, in, out]`, from images and the gradient of their outputs."""
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


def _tiles(matrix: Matrix, x: jax.Array, step: int) -> list[jax.Array]:
  """`matrix tile matrix'` of all tiles of `[B, H, W, C]`, which start `step` pixels apart.

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
  """`matrix x matrix'` over the first two axes of `x`: the columns of the result."""
  rows = jnp.stack(_combine(matrix, list(x)))
  return _combine(matrix, list(jnp.moveaxis(rows, 1, 0)))


def _combine(matrix: Matrix, parts: Sequence[jax.Array]) -> list[jax.Array]:
  """The product of `matrix` with the vector of arrays `parts`; factors of 0 are left out."""
  results = []
  for weights in matrix:
    first, *others = [w * part for w, part in zip(weights, parts, strict=True) if w]
    results.append(sum(others, start=first))
  return results


def _transposed(matrix: Matrix) -> Matrix:
  return tuple(zip(*matrix, strict=True))


def _axes(x: jax.Array) -> frozenset[str]:
  """The axes of the mesh over which `x` varies, inside `jax.shard_map`."""
  return jax.typeof(x).manual_axis_type.varying


def _varying(x: jax.Array, axes: frozenset[str]) -> jax.Array:
  """`x`, as something that varies over `axes`."""
  new = tuple(axes - _axes(x))
  return jax.lax.pcast(x, new, to="varying") if new else x
