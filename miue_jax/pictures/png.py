"""Writes PNG files.

Pillow tries every filter on every row, which takes three times as long for 7 % fewer bytes, and
has no colour of 16 bits.
"""

import struct
import zlib

import numpy as np

from miue_jax.pictures import packing
from miue_jax.pictures.metadata import PNG

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by the number of channels
_UP = 2  # the filter that subtracts the row above
_STRIP_BYTES = 2**22


def encode(channels: np.ndarray, exif: bytes = b"", profile: bytes | None = None) -> bytes:
  """Returns the PNG file of pixels, uint8 or uint16 `[H, W, C]` with one to four channels."""
  height, width, count = channels.shape
  size = channels.dtype.itemsize
  header = struct.pack(">IIBBBBB", width, height, 8 * size, COLOUR_TYPES[count], 0, 0, 0)
  parts = [(b"IHDR", header)]
  if profile:
    parts.append((b"iCCP", b"ICC\0\0" + zlib.compress(profile)))
  if exif:
    parts.append((b"eXIf", exif.removeprefix(b"Exif\0\0")))
  rows = channels.reshape(height, width * count)
  deflater, body = packing.compressor(), []
  step = max(1, _STRIP_BYTES // (size * width * count))
  above = np.zeros((1, size * width * count), np.uint8)
  for start in range(0, height, step):
    strip = rows[start : start + step].astype(f">u{size}").view(np.uint8)
    filtered = np.full((len(strip), 1 + strip.shape[1]), _UP, np.uint8)
    np.subtract(strip[:1], above, out=filtered[:1, 1:])
    np.subtract(strip[1:], strip[:-1], out=filtered[1:, 1:])
    body.append(deflater.compress(filtered.data))
    above = strip[-1:]
  body.append(deflater.flush())
  return assembled([*parts, (b"IDAT", b"".join(body)), (b"IEND", b"")])


def assembled(chunks: list[tuple[bytes, bytes]]) -> bytes:
  """Returns the file of chunks, each a name of four letters and its content."""
  packed = [PNG]
  for kind, body in chunks:
    packed += [struct.pack(">I", len(body)), kind, body]
    packed.append(struct.pack(">I", zlib.crc32(body, zlib.crc32(kind))))
  return b"".join(packed)
