"""Carries a perturbation from the size of a network to the size of a picture, in integers.

Interpolation is bilinear in fixed-point arithmetic, so that every machine makes the same bytes.
The picture is the perturbation's `s x s` cells stretched over it: centres of cells map to centres.
"""

import zlib
from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from miue_jax.pictures import packing
from miue_jax.pictures.decode import Picture, flat
from miue_jax.settings.errors import UserError

_BITS = 8  # of the weights between two cells, along each axis
# Values of a strip of rows: its temporaries stay in the cache. Corrections are stored by strips, so
# that this number belongs to the format of keys.
_STRIP_VALUES = 2**18
_SMOOTH = 3.0  # 255ths of local contrast at which a perturbation has half of its strength
_WINDOW = 5  # pixels at least, along each axis, that local contrast is measured over
_LUMA = np.array([19595, 38470, 7471], np.int32)  # 65536ths, as Pillow converts RGB to gray


def contrast_weights(picture: Picture, size: int, floor: float) -> np.ndarray:
  """Returns weights that are low where a picture is smooth, because changes are seen there first.

  The contrast of a cell is the standard deviation of its gray values in the full-size picture, and
  of those around it where a cell has fewer than 5 x 5 pixels. The weight of a cell with contrast c
  is `floor + (1 - floor) c / (c + 3/255)`.

  Args:
    picture: The picture.
    size: Number of cells along each axis, s.
    floor: Weight where the picture is constant.

  Returns:
    float32 `[s, s]` in [floor, 1].
  """
  gray = np.asarray(flat(picture, gray=True))
  height, width = gray.shape
  rows, columns = (np.arange(min(size, side)) * side // min(size, side) for side in gray.shape)
  sums = np.zeros((3, len(rows), len(columns)))
  sums[0] = np.diff(rows, append=height)[:, None] * np.diff(columns, append=width)
  for row, (start, end) in enumerate(zip(rows, [*rows[1:], height], strict=True)):
    strip = gray[start:end].astype(np.float64)
    for power in (1, 2):
      sums[power, row] = np.add.reduceat((strip**power).sum(axis=0), columns)
  # The cells at the border count again for those that would be outside.
  window = _window(height / len(rows)), _window(width / len(columns))
  count, total, squares = ndimage.uniform_filter(sums, (1, *window), mode="nearest")
  contrast = np.sqrt(np.maximum(0, squares / count - (total / count) ** 2))
  cells = [np.arange(size) * len(part) // size for part in (rows, columns)]
  weights = floor + (1 - floor) * contrast / (contrast + _SMOOTH)
  return weights[np.ix_(*cells)].astype(np.float32)


def _window(cell: float) -> int:
  """Returns the odd number of cells in a window, for cells of `cell` pixels."""
  return 1 + 2 * int(np.ceil(max(0.0, _WINDOW - cell) / (2 * cell)))


def shaped(delta: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Returns a perturbation that is fainter where a picture is smooth, and so less visible.

  Args:
    delta: Perturbation int8 `[s, s, 3]` in 255ths.
    weights: What `contrast_weights` returns, `[s, s]`.

  Returns:
    Perturbation int8 `[s, s, 3]`.
  """
  return np.rint(delta * weights[..., None]).astype(np.int8)


def luma(values: np.ndarray) -> np.ndarray:
  """Returns the luma of pictures or perturbations, `[..., 3]` to `[..., 1]`, in their budget."""
  if values.shape[-1] == 1:
    return values
  return ((values.astype(np.int32) @ _LUMA + 2**15) >> 16).astype(values.dtype)[..., None]


def carried(delta: np.ndarray, height: int, width: int, depth: int = 8) -> np.ndarray:
  """Returns a perturbation at the size of a picture.

  Args:
    delta: Perturbation int8 `[s, s, C]` in 255ths.
    height: Height of the picture.
    width: Width of the picture.
    depth: 8 or 16 bits.

  Returns:
    int16 `[height, width, C]` in 255ths, or int32 in 65535ths (257 of which are a 255th). No value
    is larger than the largest of `delta`.
  """
  result = np.empty((height, width, delta.shape[-1]), np.int16 if depth == 8 else np.int32)
  for rows, strip in _strips(delta, height, width, depth):
    result[rows] = strip
  return result


def _weights(length: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the cells that each pixel of an axis is made of, and their weights.

  The weights are those of a triangle that is one cell wide, or one pixel where a picture is smaller
  than the grid. They are integers, and those of a pixel add up to `2**_BITS`.

  Returns:
    Indices of cells int64 `[length, taps]`, and weights int32 `[length, taps]`.
  """
  centre = (2 * np.arange(length) + 1) * cells - length  # times 2 length: (i + 1/2) s / n - 1/2
  unit, reach = 2 * length, 2 * max(length, cells)
  first = -((reach - centre) // unit)  # cells closer than `reach`
  taps = first[:, None] + np.arange(2 * -(-reach // unit))
  heights = np.maximum(0, reach - np.abs(taps * unit - centre[:, None]))
  # Largest remainders: rounded sums of the weights so far differ by integers and end at 2**_BITS.
  sums = np.cumsum(heights, axis=1)
  edges = (2 * sums * 2**_BITS + sums[:, -1:]) // (2 * sums[:, -1:])
  weights = np.diff(edges, axis=1, prepend=0)
  return np.clip(taps, 0, cells - 1), weights.astype(np.int32)


def _strips(
  delta: np.ndarray, height: int, width: int, depth: int
) -> Iterator[tuple[slice, np.ndarray]]:
  """Yields strips of rows of `carried`, with the rows that they are."""
  scale = 1 if depth == 8 else 257
  across, shares = _weights(width, delta.shape[1])
  # [s, width, C] in 2**_BITS parts.
  wide = np.einsum("stkc,tk->stc", scale * delta.astype(np.int32)[:, across], shares)
  wide = wide.reshape(len(delta), -1)
  down, shares = _weights(height, len(delta))
  most = max(1, _STRIP_VALUES // wide.shape[1])
  # Rows between the same cells are made together.
  starts = np.flatnonzero(np.diff(down, axis=0, prepend=-1).any(axis=1))
  for begin, end in zip(starts, [*starts[1:], height], strict=True):
    first = wide[down[begin, 0]] * 2**_BITS + 2 ** (2 * _BITS - 1)
    others = [
      (tap, wide[down[begin, tap]] - wide[down[begin, 0]]) for tap in range(1, down.shape[1])
    ]
    for start in range(begin, end, most):
      rows = slice(start, min(start + most, end))
      total = np.broadcast_to(first, (rows.stop - start, len(first)))
      for tap, step in others:
        total = total + step * shares[rows, tap, None]
      strip = (total >> 2 * _BITS).astype(np.int16 if depth == 8 else np.int32)
      yield rows, strip.reshape(len(strip), width, -1)


def apply(channels: np.ndarray, delta: np.ndarray) -> tuple[np.ndarray, bytes]:
  """Adds a perturbation to a picture.

  Args:
    channels: Stored pixels, uint8 or uint16 `[H, W, C]`; alpha is not changed.
    delta: Perturbation int8 `[s, s, 3]` in 255ths, or `[s, s, 1]`; a gray picture gets its luma.

  Returns:
    The perturbed pixels, of the same shape and type, and the corrections, compressed: for every
    value that is black or white now, its distance from the original value. Most distances are 0.
  """
  changed, deflater, corrections = channels.copy(), packing.compressor(), []
  top = np.iinfo(channels.dtype).max
  for rows, original, strip in _parts(channels, delta):
    exact = original + strip
    np.clip(exact, 0, top, out=exact)
    stored = exact.astype(channels.dtype)
    changed[rows, :, : strip.shape[-1]] = stored
    ends = _at_ends(stored)
    if ends.any():
      distances = np.abs(original[ends] - exact[ends])
      corrections.append(deflater.compress(b"\1" if distances.any() else b"\0"))
      if distances.any():
        part = distances.astype(channels.dtype.newbyteorder("<"))
        corrections.append(deflater.compress(part.tobytes()))
  corrections.append(deflater.flush())
  return changed, b"".join(corrections)


def remove(channels: np.ndarray, delta: np.ndarray, corrections: bytes) -> np.ndarray:
  """Returns the original pixels, bit for bit, from what `apply` returned.

  Raises:
    UserError: The corrections do not belong to these pixels.
  """
  original, inflater = channels.copy(), zlib.decompressobj()
  top, dtype = np.iinfo(channels.dtype).max, channels.dtype
  for rows, stored, strip in _parts(channels, delta):
    exact = stored - strip
    ends = _at_ends(channels[rows, :, : strip.shape[-1]])
    if count := int(np.count_nonzero(ends)):
      moved = _read(inflater, corrections, 1) != b"\0"
      corrections = b""
      part = (
        _read(inflater, b"", count * dtype.itemsize) if moved else bytes(count * dtype.itemsize)
      )
      distances = np.frombuffer(part, dtype.newbyteorder("<")).astype(exact.dtype)
      exact[ends] = np.where(stored[ends] == 0, distances, top - distances)
    if exact.min() < 0 or exact.max() > top:
      raise UserError("These pixels do not belong to this key: use the key of this folder.")
    original[rows, :, : strip.shape[-1]] = exact
  return original


def _parts(
  channels: np.ndarray, delta: np.ndarray
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
  """Yields rows, pixels without alpha as integers that can be added, and the perturbation."""
  height, width, count = channels.shape
  colours = 1 if count < 3 else 3
  if colours == 1:
    delta = luma(delta)
  depth = 8 * channels.dtype.itemsize
  for rows, strip in _strips(delta, height, width, depth):
    yield rows, channels[rows, :, :colours].astype(strip.dtype), strip


def _at_ends(stored: np.ndarray) -> np.ndarray:
  """Finds black and white values; the largest integer plus one is zero."""
  return stored + stored.dtype.type(1) <= 1


def _read(inflater, more: bytes, size: int) -> bytes:
  """Inflates exactly `size` bytes."""
  try:
    part = inflater.decompress(inflater.unconsumed_tail + more, size)
  except zlib.error:
    part = b""
  if len(part) != size:
    raise UserError("These pixels do not belong to this key: use the key of this folder.")
  return part
