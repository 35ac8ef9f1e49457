"""Packs what a key knows about one picture, and reads it back without trusting it."""

import dataclasses
import hashlib
import itertools
import json
import math
import os
import re
import struct
import zlib
from typing import Any

import numpy as np

from miue_jax.pictures import packing
from miue_jax.pictures.names import is_plain
from miue_jax.settings.errors import UserError

# How a picture is restored: by subtracting the perturbation; by that and a stored difference; from
# the stored original file.
DELTA, DIFFERENCE, FILE = "delta", "difference", "file"

_LARGEST_GRID = 1024  # cells of a perturbation along one axis
_MOST_PIXELS = 2**30
_MOST_JSON = 2**16  # bytes
_CONTENT = ("how", "shape", "bits", "grid", "profile", "sizes")
_LENGTH = struct.Struct("<I")


@dataclasses.dataclass(frozen=True)
class Entry:
  """Describes one published picture.

  Attributes:
    name: Path of the original, relative to its folder, with "/" and suffix.
    class_name: Its class.
    published: Path of the published file, relative to its folder.
    digest: Digest of the published pixels, 32 bytes.
    source: Digest of the original pixels, 32 bytes: tells whether the original has changed.
  """

  name: str
  class_name: str
  published: str
  digest: bytes
  source: bytes


@dataclasses.dataclass(frozen=True)
class Content:
  """Holds what is needed to restore one picture.

  Attributes:
    how: `DELTA`, `DIFFERENCE` or `FILE`.
    shape: Shape `(H, W, C)` of the original.
    bits: 8 or 16.
    delta: Perturbation int8 `[s, s, 1 or 3]` in 255ths; None for `FILE`.
    extra: Corrections; or the difference original - published + perturbation modulo 256 or 65536,
      compressed; or the original file.
    profile: ICC profile of the original, or None.
    exif: EXIF of the original.
  """

  how: str
  shape: tuple[int, int, int]
  bits: int
  delta: np.ndarray | None
  extra: bytes
  profile: bytes | None
  exif: bytes


def canonical(channels: np.ndarray) -> np.ndarray:
  """Returns the simplest form of pixels that look the same: gray, opaque, 8 bits where possible."""
  top = np.iinfo(channels.dtype).max
  if channels.shape[-1] in (2, 4) and _all(channels, lambda part: part[..., -1] == top):
    channels = channels[..., :-1]
  if channels.shape[-1] >= 3 and _all(channels, lambda part: part[..., :2] == part[..., 1:3]):
    channels = channels[..., [0, *range(3, channels.shape[-1])]]
  if channels.dtype == np.uint16 and _all(channels, lambda part: part % 257 == 0):
    channels = (channels // 257).astype(np.uint8)
  return channels


def _all(channels: np.ndarray, test) -> bool:
  """Returns whether a test holds everywhere; stops at the first strip of rows where it fails."""
  return all(test(channels[start : start + 64]).all() for start in range(0, len(channels), 64))


def expanded(channels: np.ndarray, count: int, bits: int) -> np.ndarray:
  """Returns the pixels with more channels or bits: undoes the reduction of `canonical`.

  Raises:
    ValueError: The pixels have more channels or bits than that already.
  """
  channels = canonical(channels)
  if bits == 16 and channels.dtype == np.uint8:
    channels = channels.astype(np.uint16) * 257
  has = channels.shape[-1]
  if has > count or channels.dtype.itemsize * 8 != bits or (has, count) == (2, 3):
    raise ValueError("the pixels have more channels or bits")
  colour, alpha = channels[..., : 1 if has < 3 else 3], channels[..., -1:]
  if count >= 3 > has:
    colour = np.repeat(colour, 3, axis=-1)
  if count in (1, 3):
    return np.ascontiguousarray(colour)
  if has in (1, 3):
    alpha = np.full_like(alpha, np.iinfo(channels.dtype).max)
  return np.concatenate([colour, alpha], axis=-1)


def name_of(profile: bytes) -> str:
  """Returns a short name of a profile."""
  return hashlib.sha256(profile).hexdigest()[:16]


def packed(entry: Entry, content: Content) -> bytes:
  """Returns the record of a picture."""
  delta = b"" if content.delta is None else deflated(content.delta)
  fields = {
    "name": entry.name,
    "class": entry.class_name,
    "published": entry.published,
    "digest": entry.digest.hex(),
    "source": entry.source.hex(),
    "how": content.how,
    "shape": list(content.shape),
    "bits": content.bits,
    "grid": [] if content.delta is None else list(content.delta.shape),
    "profile": name_of(content.profile) if content.profile else "",
    "sizes": [len(delta), len(content.exif), len(content.extra)],
  }
  text = json.dumps(fields, separators=(",", ":")).encode()
  return b"".join([_LENGTH.pack(len(text)), text, delta, content.exif, content.extra])


def deflated(delta: np.ndarray) -> bytes:
  """Compresses a perturbation; its channels are stored one after the other."""
  return packing.deflated(np.ascontiguousarray(delta.transpose(2, 0, 1)).tobytes())


def entry(record: bytes, path: str | os.PathLike) -> Entry:
  """Reads the description in a record.

  Raises:
    UserError: The record is damaged, or a name leads outside of a folder.
  """
  return _entry(_fields(record, path)[0], path)


def _entry(fields: dict[str, Any], path: str | os.PathLike) -> Entry:
  values = [fields.get(key) for key in ("name", "class", "published", "digest", "source")]
  texts = [value for value in values if isinstance(value, str)]
  if len(texts) != len(values) or not all(re.fullmatch("[0-9a-f]{64}", text) for text in texts[3:]):
    raise _damaged(path)
  name, class_name, published, digest, source = texts
  for text in (name, published):
    if not is_plain(text):
      raise UserError(f"{path} holds the name {text!r}, which leads outside: do not use this key.")
  return Entry(name, class_name, published, bytes.fromhex(digest), bytes.fromhex(source))


def content(record: bytes, profiles: dict[str, bytes], path: str | os.PathLike) -> Content:
  """Reads all of a record.

  Raises:
    UserError: The record is damaged.
  """
  fields, start = _fields(record, path)
  values: list[Any] = [fields.get(key) for key in _CONTENT]
  how, shape, bits, grid, profile, sizes = values
  if (
    how not in (DELTA, DIFFERENCE, FILE)
    or not _are_sizes(shape)
    or not _are_sizes(sizes)
    or bits not in (8, 16)
    or not 1 <= shape[2] <= 4
    or not 1 <= math.prod(shape) <= _MOST_PIXELS
    or sum(sizes) != len(record) - start
    or not isinstance(profile, str)
    or (profile and profile not in profiles)
  ):
    raise _damaged(path)
  ends = np.cumsum([start, *sizes]).tolist()
  delta, exif, extra = (record[a:b] for a, b in itertools.pairwise(ends))
  perturbation = None
  if how != FILE:
    if (
      not _are_sizes(grid) or not 1 <= grid[0] == grid[1] <= _LARGEST_GRID or grid[2] not in (1, 3)
    ):
      raise _damaged(path)
    flat = np.frombuffer(inflated(delta, math.prod(grid), path), np.int8)
    if flat.size != math.prod(grid):
      raise _damaged(path)
    perturbation = np.ascontiguousarray(flat.reshape(grid[2], *grid[:2]).transpose(1, 2, 0))
  return Content(how, tuple(shape), bits, perturbation, extra, profiles.get(profile), exif)


def _are_sizes(value: Any) -> bool:
  """Returns whether a JSON value is a list of three sizes."""
  return (
    isinstance(value, list)
    and len(value) == 3
    and all(type(size) is int and 0 <= size < 2**31 for size in value)
  )


def _fields(record: bytes, path: str | os.PathLike) -> tuple[dict[str, Any], int]:
  """Returns the description in a record, and where it ends."""
  if len(record) < _LENGTH.size:
    raise _damaged(path)
  (length,) = _LENGTH.unpack_from(record)
  if length > min(_MOST_JSON, len(record) - _LENGTH.size):
    raise _damaged(path)
  end = _LENGTH.size + length
  return parsed(record[_LENGTH.size : end], path), end


def parsed(text: bytes, path: str | os.PathLike) -> dict[str, Any]:
  """Reads a JSON object.

  Raises:
    UserError: It is damaged.
  """
  try:
    fields = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise _damaged(path) from error
  if not isinstance(fields, dict):
    raise _damaged(path)
  return fields


def inflated(body: bytes, most: int, path: str | os.PathLike) -> bytes:
  """Decompresses a body to at most `most` bytes.

  Raises:
    UserError: The body is damaged or longer.
  """
  inflater = zlib.decompressobj()
  try:
    plain = inflater.decompress(body, most + 1)
  except zlib.error as error:
    raise _damaged(path) from error
  if len(plain) > most or not inflater.eof:
    raise _damaged(path)
  return plain


def _damaged(path: str | os.PathLike) -> UserError:
  return UserError(f"{path} is damaged: copy it again.")
