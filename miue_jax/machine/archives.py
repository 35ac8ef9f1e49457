"""Reads arrays from untrusted `.npz` and `.npy` files.

NumPy's own readers unpickle, parse headers of any length, trust any shape, and let a damaged file
raise any exception. These readers check the header of an array before they take memory for it, and
turn every problem into a `UserError` that names the file.
"""

import contextlib
import io
import math
import os
import zipfile
from collections.abc import Generator, Iterator, Mapping
from typing import IO, NamedTuple

import numpy as np

from miue_jax.machine import files, reading, room
from miue_jax.settings.errors import UserError, first_line

_PLAIN_ARRAYS = "write it with numpy.savez from plain arrays, without Python objects"
_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 10_000  # bytes; NumPy's own limit
_LARGEST_READ = 256 * files.MEBIBYTE  # bytes; the list of names in an archive is read at once
_MOST_DIMENSIONS = 32
_KINDS = "biufcUSmM"  # of plain values: neither objects nor records
_LISTED = 10  # names in a message


class Header(NamedTuple):
  """Describes an array that is not read yet."""

  shape: tuple[int, ...]
  dtype: np.dtype
  fortran_order: bool = False

  @property
  def bytes(self) -> int:
    """Returns the size of the array in bytes."""
    return math.prod(self.shape) * self.dtype.itemsize


class Archive(Mapping[str, np.ndarray]):
  """Maps the names of an untrusted .npz file to its arrays; an array is read on each access.

  Pickled objects are never loaded. Every problem becomes a UserError that names the file.
  """

  def __init__(self, path: files.Path, advice: str = _PLAIN_ARRAYS):
    """Reads the names.

    Args:
      path: The file.
      advice: The end of every error message: what to do about a file that cannot be used.

    Raises:
      UserError: The file cannot be read or is not an .npz file.
    """
    self._path, self._advice = path, advice
    with reading.opened(path) as file, _damage_named(path, advice):
      if not zipfile.is_zipfile(_Sparing(file)):
        raise UserError(f"{files.shown(path)} is not an .npz file: {advice}.")
    with self._opened() as archive:
      self._members = {name.removesuffix(".npy"): name for name in archive.namelist()}

  @contextlib.contextmanager
  def _opened(self) -> Generator[zipfile.ZipFile]:
    with (
      reading.opened(self._path) as file,
      _damage_named(self._path, self._advice),
      zipfile.ZipFile(_Sparing(file)) as archive,
    ):
      yield archive

  @contextlib.contextmanager
  def _member(self, name: str) -> Generator[tuple[IO[bytes], int]]:
    """Yields the bytes of an array and their number."""
    if name not in self._members:
      raise KeyError(name)
    with self._opened() as archive:
      found = archive.getinfo(self._members[name])
      with archive.open(found) as stream:
        yield stream, found.file_size

  def header(self, name: str) -> Header:
    """Returns shape and type of an array without reading it.

    Raises:
      UserError: The array cannot be read.
    """
    with self._member(name) as (stream, size):
      return _header(stream, size, name)

  def __getitem__(self, name: str) -> np.ndarray:
    """Reads one array.

    Raises:
      UserError: The array cannot be read or does not fit into memory.
    """
    with self._member(name) as (stream, size):
      return _read(stream, _header(stream, size, name), name)

  def __contains__(self, name: object) -> bool:
    return name in self._members

  def __iter__(self) -> Iterator[str]:
    return iter(self._members)

  def __len__(self) -> int:
    return len(self._members)

  def __str__(self) -> str:
    names = [files.shown(name[:100]) for name in sorted(self._members)]
    return ", ".join(names[:_LISTED] + ["..."] * (len(names) > _LISTED)) or "nothing"


def npy_header(path: files.Path, advice: str) -> Header:
  """Returns shape and type of the array in an untrusted .npy file without reading it.

  Raises:
    UserError: `read_npy` would not read the file.
  """
  with _npy(path, advice) as (_, header):
    return header


def read_npy(path: files.Path, advice: str) -> np.ndarray:
  """Reads an array from an untrusted .npy file, in C order.

  Args:
    path: The file.
    advice: The end of the error message: what to do about a file that cannot be used.

  Raises:
    UserError: The file cannot be read, is not a .npy file, holds pickled objects, or does not fit
      into memory.
  """
  with _npy(path, advice) as (file, header):
    return np.ascontiguousarray(_read(file, header, "the file")).reshape(header.shape)


@contextlib.contextmanager
def _npy(path: files.Path, advice: str) -> Generator[tuple[IO[bytes], Header]]:
  with reading.opened(path) as file, _damage_named(path, advice):
    yield file, _header(file, os.fstat(file.fileno()).st_size, "the file")


def is_archive(path: files.Path) -> bool:
  """Returns whether a file looks like an `.npz` file.

  Raises:
    UserError: The file cannot be read.
  """
  with reading.opened(path) as file:
    try:
      return zipfile.is_zipfile(_Sparing(file))
    except Exception:  # It is then no archive that can be read.
      return False


class _Sparing(io.BufferedReader):
  """A file that refuses large reads, because a damaged archive may request any number of bytes."""

  def __init__(self, file: IO[bytes]):
    super().__init__(io.FileIO(file.fileno(), closefd=False))
    self._size = os.fstat(file.fileno()).st_size

  def read(self, size: int | None = -1, /) -> bytes:
    if size is None or size < 0:
      size = max(0, self._size - self.tell())
    if size > _LARGEST_READ:
      raise ValueError("its list of names is too long")
    return super().read(size)


def _header(stream: IO[bytes], size: int, name: str) -> Header:
  """Reads the header of an array that takes `size` bytes together with it."""
  name = files.shown(name[:100])
  start = stream.read(8)
  if start[:6] != _MAGIC or len(start) < 8:
    raise ValueError(f"{name} is not an array")
  version = (start[6], start[7])
  if version not in ((1, 0), (2, 0), (3, 0)):
    raise ValueError(f"{name} has the unknown version {version[0]}.{version[1]}")
  width = 2 if version == (1, 0) else 4
  prefix = stream.read(width)
  length = int.from_bytes(prefix, "little")
  if length > _LONGEST_HEADER:
    raise ValueError(f"{name} has a header of {length:,} bytes")
  # Versions 2 and 3 differ in the encoding of field names, which plain arrays do not have.
  parse = np.lib.format.read_array_header_1_0 if width == 2 else np.lib.format.read_array_header_2_0
  shape, fortran_order, dtype = parse(io.BytesIO(prefix + stream.read(length)))
  if dtype.kind not in _KINDS or dtype.hasobject or dtype.subdtype is not None:
    objects = "Python objects" if dtype.hasobject else f"values of type {str(dtype)[:50]}"
    raise ValueError(f"{name} holds {objects}, which are never loaded")
  if len(shape) > _MOST_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
    raise ValueError(f"{name} has a shape that no array has")
  header = Header(shape, dtype, fortran_order)
  if header.bytes != size - 8 - width - length:
    raise ValueError(f"{name} does not have the size that its header states")
  return header


def _read(stream: IO[bytes], header: Header, name: str) -> np.ndarray:
  """Reads the values that follow a header."""
  name = files.shown(name[:100])
  size, free = header.bytes, room.limit()
  if size > free:
    raise MemoryError(f"{name} takes {size:,} bytes, but there are only {free:,}")
  flat = np.empty(size, np.uint8)
  view, filled = flat.data, 0
  while filled < size:
    part = stream.read(min(size - filled, files.MEBIBYTE))
    if not part:
      raise ValueError(f"{name} is cut off")
    view[filled : filled + len(part)] = part
    filled += len(part)
  if stream.read(1):  # At its end, an archive compares the checksum.
    raise ValueError(f"{name} does not have the size that its header states")
  order = "F" if header.fortran_order else "C"
  array = np.ndarray(header.shape, header.dtype, flat.data, order=order)
  if header.dtype.kind == "U" and size:
    points = flat.view(np.uint32 if header.dtype.isnative else np.dtype(np.uint32).newbyteorder())
    if points.max() > 0x10FFFF:
      raise ValueError(f"{name} holds what is not text")
  return array


@contextlib.contextmanager
def _damage_named(path: files.Path, advice: str) -> Generator[None]:
  try:
    yield
  except UserError:
    raise
  except Exception as error:  # A damaged file makes zipfile and NumPy raise any exception.
    if isinstance(error, OSError) and error.errno:  # of the disk, not of the content
      raise
    reason = first_line(error)
    if isinstance(error, MemoryError):
      reason = reason if str(error) else "it does not fit into memory"
      advice = "use a smaller file, or a machine with more memory"
    raise UserError(f"{files.shown(path)} cannot be read ({reason}): {advice}.") from error
