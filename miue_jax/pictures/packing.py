"""Compresses noise, which repeats nothing but has few values, to zlib streams."""

import zlib


def compressor(strategy: int = zlib.Z_RLE):
  """Returns a compressor that looks for runs only: faster than zlib's default, and smaller here."""
  return zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 9, strategy)


def deflated(raw: bytes) -> bytes:
  """Returns the smallest of several compressed forms of a few bytes."""
  forms = [zlib.compress(raw, 9)]
  for strategy in (zlib.Z_RLE, zlib.Z_HUFFMAN_ONLY):
    stream = compressor(strategy)
    forms.append(stream.compress(raw) + stream.flush())
  return min(forms, key=len)
