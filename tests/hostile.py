"""Makes files that are not what a reader expects: what once failed, as recipes, and mutations."""

import json
import os
import pathlib
import socket
import zipfile
import zlib
from collections.abc import Callable

import numpy as np

from miue_jax.settings.errors import UserError

# Paths that cannot be read as a file: name -> function that makes it in a folder and returns it.


def _loop(folder):
  path = folder / "loop"
  path.symlink_to(path)
  return path


def _through_a_file(folder):
  (folder / "file").write_text("x")
  return folder / "file" / "inside"


def _behind_a_link_to_a_file(folder):
  (folder / "file").write_text("x")
  (folder / "link").symlink_to(folder / "file")
  return folder / "link" / "inside"


def _pipe(folder):
  os.mkfifo(folder / "pipe")
  return folder / "pipe"


def _link_to_a_pipe(folder):
  (folder / "link").symlink_to(_pipe(folder))
  return folder / "link"


def _socket(folder):
  here = os.getcwd()
  os.chdir(folder)  # a socket's name is short
  try:
    with socket.socket(socket.AF_UNIX) as listener:
      listener.bind("socket")
  finally:
    os.chdir(here)
  return folder / "socket"


def _sparse(folder):
  with open(folder / "sparse", "wb") as file:
    file.truncate(1 << 40)
  return folder / "sparse"


def _denied(folder):
  (folder / "denied").mkdir(mode=0)
  return folder / "denied" / "file"


PATHS: dict[str, Callable[[pathlib.Path], pathlib.Path]] = {
  "a link to itself": _loop,
  "a path through a file": _through_a_file,
  "a path through a link to a file": _behind_a_link_to_a_file,
  "a name of 300 letters": lambda folder: folder / ("x" * 300),
  "a path of 5,000 letters": lambda folder: folder / "/".join(["x" * 99] * 50),
  "a NUL": lambda folder: folder / "nul\0",
  "half of a character": lambda folder: folder / "half\ud800",
  "a newline": lambda folder: folder / "new\nline",
  "a folder without permission": _denied,
  "a named pipe": _pipe,
  "a link to a named pipe": _link_to_a_pipe,
  "a socket": _socket,
  "a device": lambda folder: pathlib.Path("/dev/zero"),
  "a terabyte": _sparse,
  "memory of the kernel": lambda folder: pathlib.Path("/proc/kcore"),
  "memory": lambda folder: pathlib.Path("/proc/self/mem"),
  "nothing": lambda folder: folder / "nothing",
}


# Archives, which a file of NumPy is: name -> function that makes one with an array of a name.


def header(text: str | bytes, version: tuple[int, int] = (1, 0)) -> bytes:
  """Returns the start of a .npy file with any text where the description of the array is."""
  text = text.encode() if isinstance(text, str) else text
  width = 2 if version == (1, 0) else 4
  return b"\x93NUMPY" + bytes(version) + len(text).to_bytes(width, "little") + text


def described(shape: str, descr: str = "'|u1'", order: str = "False") -> bytes:
  """Returns the start of a .npy file."""
  return header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n")


def _write(path, name, content, others, method=zipfile.ZIP_STORED):
  with zipfile.ZipFile(path, "w", method) as archive:
    archive.writestr(f"{name}.npy", content)
    for other in others:  # sound arrays that belong to it
      archive.writestr(f"{other}.npy", described("(4,)", "'<i8'") + bytes(32))


def _member(content: bytes) -> Callable:
  return lambda path, name, *others: _write(path, name, content, others, zipfile.ZIP_DEFLATED)


def _patched(offset_local: int, offset_central: int, value: bytes) -> Callable:
  """Makes an archive and overwrites a field of its member in both places where it stands."""

  def make(path, name, *others):
    _write(path, name, described("(4,)") + b"\1\2\3\4", others)
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", offset_local), (b"PK\1\2", offset_central)):
      start = content.index(signature) + offset
      content[start : start + len(value)] = value
    path.write_bytes(content)

  return make


def _damaged_stream(method: int) -> Callable:
  def make(path, name, *others):
    _write(path, name, described("(4000,)") + bytes(range(250)) * 16, others, method)
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(30)
    path.write_bytes(content)

  return make


def _twice(path, name, *others):
  _write(path, name, described("(4,)") + b"\1\2\3\4", others)
  with zipfile.ZipFile(path, "a") as archive:
    archive.writestr(name, b"text")


def huge_picture(path: pathlib.Path) -> None:
  """Writes a PNG of some hundred bytes whose header says 9,000 x 9,000 pixels."""
  content = b"IHDR" + (9_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
  parts = [(13, content), (8, b"IDAT" + zlib.compress(b"")), (0, b"IEND")]
  chunks = (n.to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for n, c in parts)
  path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


ARCHIVES: dict[str, Callable[..., None]] = {
  "an encrypted member": _patched(6, 8, b"\1\0"),
  "compression 93": _patched(8, 10, b"\x5d\0"),
  "compression 99": _patched(8, 10, b"\x63\0"),
  "version 20.0": _patched(4, 6, b"\xc8\0"),
  "a size that is not its own": _patched(22, 24, b"\xff\xff\xff\x7f"),
  "damaged LZMA": _damaged_stream(zipfile.ZIP_LZMA),
  "damaged bzip2": _damaged_stream(zipfile.ZIP_BZIP2),
  "damaged deflate": _damaged_stream(zipfile.ZIP_DEFLATED),
  "a shape of booleans": _member(described("(True, True)") + b"\1"),
  "a negative shape": _member(described("(-4,)") + b"\1\2\3\4"),
  "a shape of 5,000 dimensions": _member(described("(" + "1, " * 3000 + ")") + b"\1"),
  "a shape of 40 dimensions": _member(described("(" + "1, " * 40 + ")") + b"\1"),
  "a shape that overflows": _member(described(f"({2**62}, {2**62}, 0)")),
  "a shape that no number is": _member(described("('a',)") + b"\1"),
  "half of the array": _member(described("(8,)") + b"\1\2\3\4"),
  "more than the array": _member(described("(2,)") + b"\1\2\3\4"),
  "9 MB of parentheses": _member(header(b"(" * 9_000_000, (2, 0))),
  "9,000 parentheses": _member(header(b"(" * 9_000)),
  "a header of 4 GB": _member(b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 1000),
  "a header that is cut off": _member(header(b"{'descr': '|u1', ")[:-4]),
  "a header that is not text": _member(header(b"\xff\xfe\0\0")),
  "a header that calls": _member(header("__import__('os').abort()")),
  "version 9 of the format": _member(header("{}", (9, 0))),
  "a type that there is not": _member(described("(1,)", "'q99'") + b"\1"),
  "a record": _member(described("(1,)", "[('a', '|u1')]") + b"\1"),
  "a record of records": _member(described("(1,)", "[('a', [('b', '|u1', (9,))])]") + b"\1"),
  "an object": _member(described("(1,)", "'|O'") + b"\1"),
  "code points that there are not": _member(described("(1,)", "'<U1'") + b"\xff\xff\xff\xff"),
  "a member that is no array": _member(b"not an array"),
  "an empty member": _member(b""),
  "an array and a text of one name": _twice,
}


JSON = {
  "100,000 lists": b"[" * 100_000,
  "20,000 objects inside each other": b'{"a": ' * 20_000 + b"1" + b"}" * 20_000,
  "900 lists inside each other": b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}",
  "an integer of 5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
  "an integer of 400 digits": b'{"a": ' + b"9" * 400 + b"}",
  "a list": b"[]",
  "a number": b"3",
  "nothing": b"",
  "no text": b"\xff\xfe\xfd",
  "UTF-16": '{"a": 1}'.encode("utf-16"),
  "an empty object": b"{}",
  "a text without an end": b'{"a": "',
  "zeros": bytes(1000),
}

# Values that replace a part of a JSON document.
ODD = [
  *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, -0.0, 1e-300, 1e300, -1e300, 1e16),
  *(float("nan"), float("inf"), float("-inf"), "", "x", "\0", "a\nb\x1b[31m", "\ud800", "=1+1"),
  *("é" * 300, [], {}, [[]], [None], {"": None}, {"a\nb": 1}, [1, "a"], [1e300] * 3),
  *([[[[[[]]]]]], {"before": 1}, {"spectrum": [1, None]}, {"epoch": [1, 1], "test_accuracy": [1]}),
]


def one_line(error: Exception) -> bool:
  """Returns whether the text of an error is one line that a terminal shows as it is."""
  return str(error).isprintable() and 0 < len(str(error)) < 2000


def attempt(read: Callable, *arguments) -> bool:
  """Returns whether a reader accepts its input; any error but a `UserError` of one line fails."""
  try:
    read(*arguments)
  except UserError as error:
    refusal = error
  else:
    return True
  assert one_line(refusal), repr(str(refusal))
  return False


def mutated(rng: np.random.Generator, content: bytes) -> bytes:
  """Returns a file with one to three random changes."""
  data = bytearray(content)
  for _ in range(rng.integers(1, 4)):
    here, there = sorted(rng.integers(0, len(data) + 1, 2).tolist())
    there = min(there, here + int(rng.integers(1, 40)))
    kind = rng.integers(0, 9)
    if kind < 3 and here < len(data):
      data[here] ^= 1 << int(rng.integers(0, 8))
    elif kind == 3:
      data[here:there] = rng.bytes(there - here)
    elif kind == 4:
      del data[here:there]
    elif kind == 5:
      data[here:here] = data[here:there]
    elif kind == 6:
      data[here:there] = bytes([rng.choice([0, 0xFF])]) * (there - here)
    elif kind == 7:
      data[here:there] = rng.choice(["[" * 99, "-1", "1e999", '"', "\n", "\0", "(", "NaN"]).encode()
    else:
      del data[here:]
  return bytes(data)


def bent(rng: np.random.Generator, document: object) -> object:
  """Returns a JSON document with one part that is replaced, removed or renamed."""
  copy = json.loads(json.dumps(document))
  places = list(_places(copy))
  parent, key = places[rng.integers(0, len(places))]
  kind = rng.integers(0, 8)
  if kind == 0:
    del parent[key]
  elif kind == 1 and isinstance(parent, dict):
    parent[str(rng.choice(["x", "", "a\nb", "method"]))] = parent.pop(key)
  elif kind == 2 and isinstance(parent, list):
    parent.append(parent[key])
  else:
    parent[key] = ODD[rng.integers(0, len(ODD))]
  return copy


def _places(tree: object):
  """Yields every container in a JSON document with every key or index that it has."""
  if isinstance(tree, dict | list):
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
      yield tree, key
      yield from _places(value)
