"""Reads colour pictures of 16 bits a channel, which Pillow reduces to 8 bits."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from miue_jax.pictures import png
from miue_jax.pictures.metadata import chunks

_CHANNELS = {kind: count for count, kind in png.COLOUR_TYPES.items() if count > 1}
# Adam7: first column, first row, and steps, of each pass of an interlaced PNG.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))
_PASSES += ((0, 1, 1, 2),)


def is_deep_png(content: bytes) -> bool:
  """Returns whether a file is a PNG of 16 bits with more than one channel."""
  return content[12:16] == b"IHDR" and content[24] == 16 and content[25] in _CHANNELS


def decode_png(content: bytes) -> np.ndarray:
  """Decodes such a PNG to uint16 `[H, W, C]`.

  The filters of PNG work on bytes. Byte k of all pixels is therefore a PNG of 8-bit gray with the
  same filters, which Pillow decodes.

  Raises:
    ValueError: The file is damaged.
  """
  width, height, _, kind, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
  count = 2 * _CHANNELS[kind]
  parts = _PASSES if interlaced else ((0, 0, 1, 1),)
  shapes = [(-(-(height - y) // dy), -(-(width - x) // dx)) for x, y, dx, dy in parts]
  size = sum(h * (1 + w * count) for h, w in shapes if h > 0 < w)
  body = b"".join(body for name, body, _ in chunks(content) if name == b"IDAT")
  try:
    raw = np.frombuffer(zlib.decompressobj().decompress(body, size), np.uint8)
  except zlib.error as error:
    raise ValueError(str(error)) from error
  if raw.size != size:
    raise ValueError("image file is truncated")
  pixels = np.empty((height, width, count), np.uint8)
  start = 0
  for (x, y, dx, dy), (h, w) in zip(parts, shapes, strict=True):
    if h <= 0 or w <= 0:
      continue
    rows = raw[start : start + h * (1 + w * count)].reshape(h, 1 + w * count)
    start += rows.size
    lanes = rows[:, 1:].reshape(h, w, count)
    for lane in range(count):
      gray = np.concatenate([rows[:, :1], lanes[:, :, lane]], axis=1)
      pixels[y::dy, x::dx, lane] = _gray(gray.tobytes(), h, w)
  return pixels.view(">u2").astype(np.uint16)


def _gray(rows: bytes, height: int, width: int) -> np.ndarray:
  header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
  file = png.assembled([(b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b"")])
  with Image.open(io.BytesIO(file), formats=("PNG",)) as image:
    return np.asarray(image)


def decode_tiff(content: bytes, image: Image.Image) -> np.ndarray | None:
  """Decodes a colour TIFF of 16 bits to uint16 `[H, W, C]`; returns None if it is another TIFF.

  The samples of a row are read as a wider gray picture, which Pillow decodes in 16 bits; then the
  differences of neighbouring pixels are summed, if the file stores differences.
  """
  tags = dict(getattr(image, "tag_v2", {}))
  bits, extra = tags.get(258, ()), tags.get(338, ())
  count = len(bits)
  gray_alpha = (tags.get(262), count, extra) == (1, 2, (2,))
  rgb = tags.get(262) == 2 and (count, extra) in ((3, ()), (4, (2,)))
  plain = tags.get(284, 1) == 1 and set(tags.get(339, (1,))) == {1}
  if not (gray_alpha or rgb) or set(bits) != {16} or not plain:
    return None
  if (patched := _as_wide_gray(content, count)) is None:
    return None
  with Image.open(io.BytesIO(patched), formats=("TIFF",)) as wide:
    # NumPy reads the byte order from Pillow.
    values = np.asarray(wide).astype(np.uint16).reshape(image.height, image.width, count)
  if tags.get(317, 1) == 2:
    step = tags.get(322, image.width)
    for start in range(0, image.width, step):
      tile = values[:, start : start + step]
      np.cumsum(tile, axis=1, dtype=np.uint16, out=tile)
  return values


def _as_wide_gray(content: bytes, count: int) -> bytes | None:
  """Adds a directory to a TIFF in which its samples are one gray picture."""
  order = "<" if content[:2] == b"II" else ">"
  mark, place = struct.unpack_from(order + "HI", content, 2)
  if mark != 42 or place + 2 > len(content):
    return None
  (entries,) = struct.unpack_from(order + "H", content, place)
  fixed = {258: 16, 262: 1, 277: 1}
  kept = []
  for index in range(entries):
    entry = content[place + 2 + 12 * index : place + 14 + 12 * index]
    if len(entry) < 12:
      return None
    tag, kind = struct.unpack_from(order + "HH", entry)
    if tag in fixed:
      kept.append(struct.pack(order + "HHIHH", tag, 3, 1, fixed[tag], 0))
    elif tag in (256, 322):
      (value,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), entry, 8)
      kept.append(struct.pack(order + "HHII", tag, 4, 1, count * value))
    elif tag in (257, 259, 266, 273, 278, 279, 323, 324, 325):
      kept.append(entry)
  body = content + b"\0" * (len(content) % 2)
  directory = struct.pack(order + "H", len(kept)) + b"".join(kept) + b"\0\0\0\0"
  return body[:4] + struct.pack(order + "I", len(body)) + body[8:] + directory
