"""Reads and writes the key of a published folder: one file to which pictures are appended.

The file begins with a line of text. Records follow: kind (1 byte), length (4 bytes), CRC-32 of
these, content, and the first 8 bytes of the content's sha256. A record that a crash cut off is the
last one; it is ignored, and removed when the key is opened for appending. Records hold JSON, zlib
streams and files, never Python objects.

With a passphrase, the first record holds a secret key of age, encrypted with the passphrase; all
other records are encrypted for its public key. A picture is therefore added in microseconds.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from miue_jax.machine import files, reading
from miue_jax.pictures import cipher, entries, names
from miue_jax.pictures.entries import Content, Entry
from miue_jax.settings.errors import UserError

KEY_SUFFIX = ".key"
_MAGIC = b"miue-jax key 1\n"
_HEAD = struct.Struct("<cI")
_CRC = struct.Struct("<I")
_CHECK = 8  # bytes of sha256
_LOCK, _SETTINGS, _PROFILE, _PICTURE = b"L", b"S", b"C", b"P"
_MOST_SETTINGS = 2**24  # bytes


def default_path(out: str | os.PathLike) -> pathlib.Path:
  """Returns the default place of the key: `OUT.key` next to `OUT`."""
  return names.next_to(out, KEY_SUFFIX)


def digest(channels: np.ndarray) -> bytes:
  """Returns the sha256 of stored pixels, with their shape and type.

  Pixels that look the same have the same digest: gray stored as RGB, an opaque alpha channel and 8
  bits stored as 16 do not count.
  """
  pixels = np.ascontiguousarray(entries.canonical(channels))
  little = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
  result = hashlib.sha256(f"{pixels.dtype.itemsize} {pixels.shape} ".encode())
  result.update(little.data)
  return result.digest()


class Key:
  """Represents an open key, from which pictures are read and to which they may be appended.

  Attributes:
    path: The file.
    settings: JSON values that the program stored when it made the key, such as a seed.
    cut_off: Whether the file ends inside a record, as after a crash or an incomplete copy.
  """

  def __init__(self, path: pathlib.Path, file: BinaryIO, append: bool):
    self.path, self.settings, self.cut_off = path, {}, False
    self._file, self._append = file, append
    self._cipher: cipher.Cipher | None = None
    self._stack = contextlib.ExitStack()
    self._guard = threading.Lock()
    self._places: dict[bytes, tuple[int, int]] = {}  # digest and name -> place of its record
    self._entries: dict[str, Entry] = {}  # by name
    self._names: dict[str, str] = {}  # by path of the published file
    self._by_digest: dict[bytes, list[Entry]] = {}
    self._profiles: dict[str, bytes] = {}

  @classmethod
  def create(
    cls, path: str | os.PathLike, settings: dict[str, Any], passphrase: str | None = None
  ) -> "Key":
    """Makes a new key, readable by its owner only, and opens it for appending.

    Raises:
      UserError: The file exists or cannot be written, or a passphrase is given without `pyrage`.
    """
    path = pathlib.Path(path)
    lock = cipher.Cipher.new(passphrase) if passphrase else None
    parts = [_MAGIC] + ([_record(_LOCK, lock.stored(passphrase))] if lock and passphrase else [])
    text = json.dumps(settings).encode()
    parts.append(_record(_SETTINGS, lock.encrypt(text) if lock else text))
    if files.exists(path):
      raise UserError(
        f"{path} exists: name another key, or the folder of this one. If another command has just "
        "made it, give the same command again."
      )
    files.make_folder(path.parent)
    with files.replacing(path, private=True) as file:
      file.write(b"".join(parts))
    return Key.open(path, passphrase, append=True)

  @classmethod
  def open(
    cls, path: str | os.PathLike, passphrase: str | None = None, *, append: bool = False
  ) -> "Key":
    """Opens a key, which is not trusted.

    Raises:
      UserError: The file is not a key, is damaged, needs another passphrase or none, or another
        program appends to it.
    """
    path = pathlib.Path(path)
    if not files.is_file(path):
      raise UserError(f"{path} is not a file: name the key of the folder.")
    with contextlib.ExitStack() as stack:
      if append:
        file = stack.enter_context(files.open_to_append(path))
        _hold(file, path)
        file.seek(0)
      else:
        file = stack.enter_context(reading.opened(path))
      if file.read(len(_MAGIC)) != _MAGIC:
        raise UserError(f"{path} is not a key of this version: correct the path.")
      key = cls(path, file, append)
      key._scan(passphrase)
      if append and passphrase and key._cipher is None:
        raise UserError(f"{path} is not encrypted: leave --passphrase out.")
      key._stack = stack.pop_all()
    return key

  def _scan(self, passphrase: str | None) -> None:
    """Reads all records once, and cuts off what a crash left behind."""
    known = False
    for kind, place, content in self._records():
      if kind == _LOCK:
        self._cipher = cipher.Cipher.opened(content, passphrase, self.path)
        continue
      plain = self._plain(content)
      if kind == _SETTINGS:
        self.settings, known = entries.parsed(plain[:_MOST_SETTINGS], self.path), True
      elif kind == _PROFILE:
        profile = entries.inflated(plain, 2**24, self.path)
        self._profiles[entries.name_of(profile)] = profile
      elif kind == _PICTURE:
        self._note(entries.entry(plain, self.path), place)
    if not known:
      raise UserError(f"{self.path} is damaged: copy it again.")

  def _records(self) -> Iterator[tuple[bytes, tuple[int, int], bytes]]:
    """Yields kind, place and stored content of each whole record."""
    size = os.fstat(self._file.fileno()).st_size
    place = len(_MAGIC)
    while place < size:
      self._file.seek(place)
      head = self._file.read(_HEAD.size + _CRC.size)
      if len(head) < _HEAD.size + _CRC.size or not any(head):
        break  # A crash cut it off, or left zeros.
      kind, length = _HEAD.unpack(head[: _HEAD.size])
      if _CRC.unpack(head[_HEAD.size :])[0] != zlib.crc32(head[: _HEAD.size]):
        raise UserError(f"{self.path} is damaged at byte {place}: copy it again.")
      end = place + len(head) + length + _CHECK
      if end > size:
        break
      content = self._file.read(length)
      if self._file.read(_CHECK) != hashlib.sha256(content).digest()[:_CHECK]:
        if end == size:
          break
        raise UserError(f"{self.path} is damaged at byte {place}: copy it again.")
      yield kind, (place + len(head), length), content
      place = end
    self.cut_off = place < size
    if self._append and place < size:
      with files.reported("write", self.path):
        self._file.truncate(place)

  def _plain(self, content: bytes) -> bytes:
    return self._cipher.decrypt(content, self.path) if self._cipher else content

  def _note(self, entry: Entry, place: tuple[int, int]) -> None:
    """Makes an entry the latest one of its original and of its published file."""
    before = self._entries.get(self._names.get(entry.published, ""))
    if before and before.published == entry.published:  # the original may have another name now
      del self._entries[before.name]
    self._entries[entry.name] = entry
    self._names[entry.published] = entry.name
    same = self._by_digest.setdefault(entry.digest, [])
    same[:] = [
      other for other in same if other.name != entry.name and other.published != entry.published
    ] + [entry]
    self._places[entry.digest + os.fsencode(entry.name)] = place

  @property
  def entries(self) -> Sequence[Entry]:
    """Returns the entry of every picture: the latest for a name and for a published file."""
    return list(self._entries.values())

  @property
  def former(self) -> Sequence[Entry]:
    """Returns the entries that later ones replaced, of pictures whose name has another one now."""
    latest = set(self._entries.values())
    return [e for same in self._by_digest.values() for e in same if e not in latest]

  @property
  def left(self) -> Sequence[Entry]:
    """Returns the former entries whose published file is no other picture's."""
    taken = {entry.published for entry in self._entries.values()}
    return [entry for entry in self.former if entry.published not in taken]

  def get(self, name: str) -> Entry | None:
    """Returns the latest entry of an original picture, by its path."""
    return self._entries.get(name)

  def find(self, digest: bytes) -> list[Entry]:
    """Returns the entries of published pixels; several if equal pictures were published."""
    return list(self._by_digest.get(digest, ()))

  def load(self, entry: Entry) -> Content:
    """Reads what is needed to restore one picture.

    Raises:
      UserError: The key is damaged.
    """
    place, length = self._places[entry.digest + os.fsencode(entry.name)]
    with self._guard, files.reported("read", self.path):
      self._file.seek(place)
      content = self._file.read(length)
    return entries.content(self._plain(content), self._profiles, self.path)

  def add(self, entry: Entry, content: Content) -> None:
    """Appends a picture and forces it to the disk; may be called from several threads.

    Raises:
      UserError: The key cannot be written.
    """
    packed = entries.packed(entry, content)
    with self._guard:
      if content.profile and entries.name_of(content.profile) not in self._profiles:
        self._write(_PROFILE, zlib.compress(content.profile, 9))
        self._profiles[entries.name_of(content.profile)] = content.profile
      place = self._write(_PICTURE, packed, sync=True)
      self._note(entry, place)

  def update(self, settings: dict[str, Any]) -> None:
    """Replaces the settings, on the disk too.

    Raises:
      UserError: The key cannot be written.
    """
    with self._guard:
      self._write(_SETTINGS, json.dumps(settings).encode(), sync=True)
      self.settings = settings

  def _write(self, kind: bytes, plain: bytes, sync: bool = False) -> tuple[int, int]:
    content = self._cipher.encrypt(plain) if self._cipher else plain
    record = _record(kind, content)
    with files.reported("write", self.path):
      place = self._file.seek(0, os.SEEK_END)
      try:
        # A buffer would keep what a full disk refused, and write it later.
        rest = memoryview(record)
        while rest:
          rest = rest[os.write(self._file.fileno(), rest) :]
        if sync:
          os.fsync(self._file.fileno())
      except OSError:
        with contextlib.suppress(OSError):
          os.ftruncate(self._file.fileno(), place)
        raise
    return place + _HEAD.size + _CRC.size, len(content)

  def close(self) -> None:
    """Closes the file."""
    self._stack.close()

  def __enter__(self) -> "Key":
    return self

  def __exit__(self, *_) -> None:
    self.close()


def _record(kind: bytes, content: bytes) -> bytes:
  head = _HEAD.pack(kind, len(content))
  check = hashlib.sha256(content).digest()[:_CHECK]
  return b"".join([head, _CRC.pack(zlib.crc32(head)), content, check])


def _hold(file: BinaryIO, path: pathlib.Path) -> None:
  """Locks the key against other programs; the system releases the lock when the program ends."""
  try:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except (BlockingIOError, PermissionError) as error:  # POSIX allows EAGAIN and EACCES.
    raise UserError(f"Another program is writing to {path}: wait until it has ended.") from error
  except OSError:
    pass  # The file system has no locks.
